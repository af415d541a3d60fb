/** Cells of a notebook, dragged or pasted into a chat, as text for its model. Anybody may have written them. */

import { COLOURS } from "./attachments.ts";
import type { Attachment } from "./protocol.ts";

/** JupyterLab's MIME type of cells: a list of them in the notebook format. */
export const CELLS_MIME = "application/vnd.jupyter.cells";

type Json = Readonly<Record<string, unknown>>;

export interface ReadCells {
  /** Sources and outputs; null if they have no text. */
  readonly attachment: Attachment | null;
  /** How many images were left out. */
  readonly images: number;
}

const isJson = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value);
const objects = (value: unknown): Json[] => (Array.isArray(value) ? value.filter(isJson) : []);

/** A text of the notebook format: a string, or a list of lines. */
function textOf(value: unknown): string {
  if (typeof value === "string") return value;
  return Array.isArray(value) ? value.filter((line) => typeof line === "string").join("") : "";
}

/** What a terminal would show: progress bars write their line again after a carriage return. */
function asShown(text: string): string {
  const lines = text.replace(COLOURS, "").replace(/\r+\n/g, "\n").split("\n");
  return lines.map((line) => line.split("\r").findLast((part) => part !== "") ?? "").join("\n");
}

function outputText(output: Json): string {
  if (output["output_type"] === "stream") return textOf(output["text"]);
  if (output["output_type"] === "error") {
    const lines = Array.isArray(output["traceback"]) ? output["traceback"].map(textOf) : [];
    return lines.join("\n") || `${textOf(output["ename"])}: ${textOf(output["evalue"])}`;
  }
  const data = isJson(output["data"]) ? output["data"] : {};
  if ("application/vnd.jupyter.widget-view+json" in data) return "";
  return textOf(data["text/plain"]) || textOf(data["text/markdown"]);
}

function cellText(cell: Json): string {
  const source = textOf(cell["source"]).trimEnd();
  if (cell["cell_type"] !== "code") return source;
  const output = objects(cell["outputs"]).map((item) => asShown(outputText(item)).trimEnd()).filter((text) => text !== "").join("\n");
  return [source, output && `Output:\n${output}`].filter((part) => part !== "").join("\n\n");
}

function countImages(cell: Json): number {
  const kinds = objects(cell["outputs"]).map(({ data }) => (isJson(data) ? Object.keys(data) : []));
  return kinds.filter((names) => names.some((name) => name.startsWith("image/"))).length;
}

/** Reads cells of the notebook format, as objects or as their JSON. */
export function readCells(value: unknown): ReadCells {
  let given = value;
  if (typeof value === "string") {
    try {
      given = JSON.parse(value);
    } catch {
      given = null;
    }
  }
  const cells = objects(given);
  const texts = cells.map(cellText).filter((text) => text.trim() !== "");
  const name = texts.length === 1 ? "Cell" : `${String(texts.length)} cells`;
  return {
    attachment: texts.length === 0 ? null : { name, text: texts.join("\n\n") },
    images: cells.reduce((sum, cell) => sum + countImages(cell), 0),
  };
}
