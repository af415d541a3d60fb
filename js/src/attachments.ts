/** Turns files and pasted texts into attachments: texts that go to the model with a message. */

import { formatBytes } from "./format.ts";
import type { Attachment } from "./protocol.ts";

/** Characters of all attachments of a message; mlc_widget/widget/questions.py has the same limit. */
export const MOST_CHARACTERS = 200_000;
export const MOST_ATTACHMENTS = 20;
/** A pasted text that is longer than this, in characters or lines, is attached. */
const LONG_TEXT = 2000;
const MANY_LINES = 15;

const REMEDY = "Load it into the notebook and name its variable, such as {df}.";

/** Reads a file. Throws an error with the reason if it cannot be attached. */
export async function readFile(file: File, model: string): Promise<Attachment> {
  if (file.type.startsWith("image/")) throw new Error(`${file.name}: ${model} cannot see images. Attach text instead.`);
  // No character takes more than four bytes.
  if (file.size > 4 * MOST_CHARACTERS) throw new Error(tooLong(file.name, formatBytes(file.size)));
  let bytes: ArrayBuffer;
  try {
    bytes = await file.arrayBuffer();
  } catch {
    throw new Error(`${file.name}: the browser could not read it. Only files can be attached, not folders.`);
  }
  const text = decode(bytes);
  if (text === null) throw new Error(`${file.name}: only text files can be attached.`);
  if (text.trim() === "") throw new Error(`${file.name}: the file is empty.`);
  return { name: file.name || "file", text };
}

/** Throws an error with the reason if these cannot be sent together. */
export function checkTogether(attachments: readonly Attachment[]): void {
  const last = attachments.at(-1);
  if (attachments.length > MOST_ATTACHMENTS) {
    throw new Error(`${last?.name ?? ""}: at most ${String(MOST_ATTACHMENTS)} texts can be attached to a message.`);
  }
  const length = attachments.reduce((sum, { text }) => sum + text.length, 0);
  if (length > MOST_CHARACTERS) throw new Error(tooLong(last?.name ?? "", `${length.toLocaleString("en")} characters in all`));
}

function tooLong(name: string, size: string): string {
  return `${name}: ${size}; at most ${MOST_CHARACTERS.toLocaleString("en")} characters can be attached. ${REMEDY}`;
}

/** A text in UTF-8, UTF-16 or, failing that, the encoding of Windows; null if it is no text. */
function decode(bytes: ArrayBuffer): string | null {
  const start = new Uint8Array(bytes.slice(0, 2));
  const wide = start[0] === 0xff && start[1] === 0xfe ? "utf-16le" : start[0] === 0xfe && start[1] === 0xff ? "utf-16be" : null;
  for (const encoding of wide === null ? ["utf-8", "windows-1252"] : [wide]) {
    try {
      const text = new TextDecoder(encoding, { fatal: true }).decode(bytes);
      return isText(text) ? text : null;
    } catch {
      // the next encoding
    }
  }
  return null;
}

function isText(text: string): boolean {
  let controls = 0;
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (code === 0) return false;
    // Terminals' colours begin with Escape; tabs, line ends and form feeds are usual.
    if (code < 32 && code !== 27 && !(code >= 9 && code <= 13)) controls += 1;
  }
  return controls * 100 <= text.length;
}

/** Codes by which a terminal changes the colour of text. */
// eslint-disable-next-line no-control-regex
export const COLOURS = /\u001b\[[0-9;]*m/g;

const asPlain = (text: string): string => text.replace(COLOURS, "").replace(/\r\n?/g, "\n").trimEnd();

function kindOf(plain: string, html: string): "traceback" | "table" | "text" {
  if (plain.includes("Traceback (most recent call last)")) return "traceback";
  return plain.includes("\n") && plain.includes("\t") && /<table[\s>]/i.test(html) ? "table" : "text";
}

/** A pasted text as an attachment if it is a traceback, a table, or long; null if it is to be typed. */
export function attachmentOfPaste(text: string, html: string): Attachment | null {
  const plain = asPlain(text);
  const kind = kindOf(plain, html);
  const long = plain.length > LONG_TEXT || plain.split("\n").length > MANY_LINES;
  return kind !== "text" || long ? { name: `Pasted ${kind}`, text: plain } : null;
}

/** What a drag out of the page has, such as an output of a cell that was selected, or its image. */
export interface DraggedText {
  readonly text: string;
  readonly html: string;
  /** The address of an image or a link. */
  readonly address: string;
}

/** Reads it as an attachment, null if it has no text, and counts the images that are left out. */
export function readDragged({ text, html, address }: DraggedText): { attachment: Attachment | null; images: number } {
  const images = html.match(/<(?:img|svg|canvas)[\s>/]/gi)?.length ?? 0;
  const plain = asPlain(text);
  // For an image alone, some browsers give its address as text, which may be the image itself.
  const isImage = (images > 0 && plain === address.trim()) || /^data:image\//i.test(plain);
  const attachment = isImage || plain.trim() === "" ? null : { name: `Dropped ${kindOf(plain, html)}`, text: plain };
  return { attachment, images: isImage ? Math.max(1, images) : images };
}
