/** The parts of a reply's text: the model's thoughts, its answer, JSON. */

export interface Answer {
  readonly thoughts: string;
  readonly text: string;
  /** Whether the model is still thinking. */
  readonly thinking: boolean;
}

const OPEN = /^\s*<(think|thinking|thought)>\n?/;
const MAYBE_OPEN = /^\s*(?:<(?:t(?:h(?:i(?:n(?:k(?:i(?:ng?)?)?)?)?|o(?:u(?:g(?:ht?)?)?)?)?)?)?)?$/;

/**
 * Separates thoughts that the model wrote between `<think>` tags from its answer. `reasoning` holds
 * thoughts that the engine has separated already.
 */
export function splitThoughts(source: string, reasoning: string, growing: boolean): Answer {
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

/** `text` without a trailing part that may be the beginning of `mark`. */
function withoutStartOf(mark: string, text: string): string {
  for (let length = Math.min(mark.length - 1, text.length); length > 0; length--) {
    if (text.endsWith(mark.slice(0, length))) return text.slice(0, -length);
  }
  return text;
}

/**
 * Whether to show this answer as JSON: judged by its first characters while it grows or if JSON was
 * asked for, otherwise by whether it can be parsed.
 */
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

/**
 * Indents JSON by two spaces a level. It takes incomplete JSON, too, and when the source grows, the
 * result only grows at its end.
 */
export function indentJson(source: string): string {
  let out = "";
  let level = 0;
  let inString = false;
  /** Whether the last character was an opening bracket, whose first item is still to come. */
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
