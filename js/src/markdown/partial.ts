/**
 * Makes Markdown that is still being written look as it will once it is finished.
 *
 * A growing text may end anywhere: `**bol`, "[text](htt", a line with only "-". Shown as it is, it
 * would flicker between marks and formatting. These functions change only the end of the text.
 */

import { mathLength } from "./math.ts";

/** A last line whose meaning is open: a bullet, a heading's underline, a fence, a number. */
const UNDECIDED_LINE = /(^|\n)[ \t]*(?:[-=*+#>]+|\d{1,9}[.)]?|`{1,2}|~{1,2})[ \t]*$/;

/** A last paragraph of one or two lines that begin with a pipe: perhaps a table whose second line is not complete. */
const UNDECIDED_TABLE = /(^|\n\n)[ \t]*\|[^\n]*(\n[ \t]*\|?[ \t:|-]*)?$/;

/** `text` without an end whose meaning depends on the next characters. */
export function withoutUndecided(text: string): string {
  if (UNDECIDED_TABLE.test(text)) return text.replace(UNDECIDED_TABLE, "$1");
  return text.replace(UNDECIDED_LINE, "$1");
}

/** Where the last inline text of a block begins. */
const INLINE_START = /\n[ \t]*\n|\n[ \t>]*(?:[-*+]|\d{1,9}[.)])[ \t]+|^[ \t>]*(?:[-*+]|\d{1,9}[.)]|#{1,6})[ \t]+/g;

/** A link or image at the end, whose address is not complete. */
const OPEN_LINK = /(!?)\[([^[\]]*)\]\([^()\s]*$/;

/** Closes the inline marks that are open at the end of a block's source. */
export function closeOpenMarks(source: string): string {
  let start = 0;
  for (const match of source.matchAll(INLINE_START)) start = match.index + match[0].length;
  const linked = source
    .slice(start)
    .replace(OPEN_LINK, (_, image: string, label: string) => (image ? "" : label));
  return source.slice(0, start) + closeInline(linked);
}

/** The characters with which a mark may begin that `closeInline` closes. */
const MARKS = "`*_~$";

function closeInline(text: string): string {
  const open: string[] = [];
  let code = "";
  let end = text.length;
  for (let at = 0; at < text.length; ) {
    const char = text.charAt(at);
    if (!code && (char === "$" || char === "\\")) {
      const length = mathLength(text, at);
      if (length === null) {
        end = at;
        break;
      }
      if (length > 0) {
        at += length;
        continue;
      }
    }
    if (char === "\\" && !code) {
      at += 2;
      continue;
    }
    if (char === "$") {
      at += 1;
      continue;
    }
    if (!MARKS.includes(char) || (code && char !== "`")) {
      at += 1;
      continue;
    }
    let run = char;
    while (text[at + run.length] === char) run += char;
    const before = text[at - 1] ?? " ";
    const after = text[at + run.length];
    if (char === "`") {
      if (!code && after === undefined) end = at;
      else if (!code) code = run;
      else if (code === run) code = "";
    } else if (open.at(-1) === run && !/\s/.test(before)) open.pop();
    else if (after === undefined) end = at;
    else if (opens(run, before, after)) open.push(run);
    at += run.length;
  }
  if (code) return text.slice(0, end) + code + open.toReversed().join("");
  // No mark closes right after a space, so the space is held back until more text follows.
  const kept = text.slice(0, end);
  return open.length > 0 ? kept.trimEnd() + open.toReversed().join("") : kept;
}

/** Whether this run of marks opens formatting. A single mark inside a word or an expression does not. */
function opens(run: string, before: string, after: string): boolean {
  if (/\s/.test(after) || run.length > 3) return false;
  if (run.startsWith("~")) return run.length === 2;
  if (run.length === 1) return /[\s([{"'“‘>—-]/.test(before);
  return run.startsWith("*") || !/\w/.test(before);
}
