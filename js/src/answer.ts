/** What a reply's text is made of: thoughts, an answer, JSON. */

export interface Answer {
  readonly thoughts: string;
  readonly text: string;
  /** Is it still at its thoughts? */
  readonly thinking: boolean;
}

const OPEN = /^\s*<(think|thinking|thought)>\n?/;
const MAYBE_OPEN = /^\s*(?:<(?:t(?:h(?:i(?:n(?:k(?:i(?:ng?)?)?)?)?|o(?:u(?:g(?:ht?)?)?)?)?)?)?)?$/;

/** Parts thoughts that a model writes in `<think>` from its answer; an engine may have parted others. */
export function partThoughts(source: string, reasoning: string, growing: boolean): Answer {
  const open = OPEN.exec(source);
  if (!open) {
    const undecided = growing && source !== "" && MAYBE_OPEN.test(source);
    const thinking = growing && reasoning !== "" && source.trim() === "";
    return { thoughts: reasoning, text: undecided ? "" : source, thinking };
  }
  const rest = source.slice(open[0].length);
  const close = `</${open[1] ?? ""}>`;
  const end = rest.indexOf(close);
  const before = reasoning ? `${reasoning}\n\n` : "";
  if (end >= 0) {
    return { thoughts: before + rest.slice(0, end).trimEnd(), text: rest.slice(end + close.length).trimStart(), thinking: false };
  }
  return { thoughts: before + (growing ? withoutStartOf(close, rest) : rest), text: "", thinking: growing };
}

/** Without an end that may become `mark`. */
function withoutStartOf(mark: string, text: string): string {
  for (let length = Math.min(mark.length - 1, text.length); length > 0; length--) {
    if (text.endsWith(mark.slice(0, length))) return text.slice(0, -length);
  }
  return text;
}

/** Is this answer JSON? While it grows its beginning decides, at its end whether it can be read. */
export function isJson(text: string, asked: boolean, growing: boolean): boolean {
  if (!(asked ? /^\s*[{[]/ : /^\s*\{\s*"/).test(text)) return false;
  if (growing || asked) return true;
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** JSON on lines of its own with two spaces a level; text that is not whole yet grows only at its end. */
export function indentJson(source: string): string {
  let out = "";
  let level = 0;
  let inString = false;
  /** An opening bracket whose first item has not come. */
  let fresh = false;
  const line = (): string => `\n${"  ".repeat(Math.max(0, Math.min(level, 40)))}`;
  for (let at = 0; at < source.length; at++) {
    const char = source.charAt(at);
    if (inString) {
      out += char;
      if (char === "\\") out += source.charAt(++at);
      else if (char === '"') inString = false;
      continue;
    }
    if (/\s/.test(char)) continue;
    const closes = char === "}" || char === "]";
    if (closes) {
      level -= 1;
      if (!fresh) out += line();
    } else if (fresh) out += line();
    fresh = char === "{" || char === "[";
    out += char;
    if (fresh) level += 1;
    else if (char === ",") out += line();
    else if (char === ":") out += " ";
    else if (char === '"') inString = true;
  }
  return out.trim();
}
