/** Saves a conversation as a file. */

import type { Export, ExportFormat } from "../protocol.ts";

const TYPES: Readonly<Record<ExportFormat, string>> = {
  md: "text/markdown",
  json: "application/json",
  ipynb: "application/x-ipynb+json",
};

/** Gives a file to the browser to save. */
export function download({ format, text }: Export): void {
  const address = URL.createObjectURL(new Blob([text], { type: TYPES[format] }));
  const link = document.createElement("a");
  link.href = address;
  link.download = `chat.${format}`;
  link.click();
  // Some browsers fetch it only after the click.
  setTimeout(() => { URL.revokeObjectURL(address); }, 60_000);
}
