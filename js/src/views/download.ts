/** Saves a conversation as a file. */

import type { Export, ExportFormat } from "../protocol.ts";

const TYPES: Readonly<Record<ExportFormat, string>> = {
  md: "text/markdown",
  json: "application/json",
  ipynb: "application/x-ipynb+json",
};

/** Gives a file to the browser to save, named after the chat's title. */
export function download({ format, text }: Export, title: string): void {
  const address = URL.createObjectURL(new Blob([text], { type: TYPES[format] }));
  const link = document.createElement("a");
  link.href = address;
  link.download = `${fileName(title)}.${format}`;
  link.click();
  // Some browsers fetch it only after the click.
  setTimeout(() => { URL.revokeObjectURL(address); }, 60_000);
}

/** The letters and digits of a title, with hyphens between words. */
function fileName(title: string): string {
  const words = title.normalize("NFC").match(/[\p{L}\p{M}\p{N}]+/gu) ?? [];
  return words.join("-").slice(0, 60) || "chat";
}
