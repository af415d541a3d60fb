/**
 * Parses Markdown into a tree of plain values, in which everything that the model wrote is text.
 *
 * Tags, classes and attributes are all ours; HTML in the source is shown as text. Images are never
 * fetched, and a link is an address that a click opens (`view.ts`): no element has a URL that the
 * browser would load by itself.
 */

import { Marked, type MarkedToken, type Token, type Tokens } from "marked";
import { highlight } from "./highlight.ts";
import { mathExtensions, mathNode, type MathToken } from "./math.ts";
import type { VElement, VNode } from "./tree.ts";

const MAX_DEPTH = 24;

/** Tokenizes GitHub-flavoured Markdown. Line breaks are kept, as people expect in chats. */
export function lex(source: string, growing = false): Token[] {
  return (growing ? GROWING : WHOLE).lexer(source);
}

const WHOLE = new Marked({ gfm: true, breaks: true, extensions: mathExtensions(false) });
const GROWING = new Marked({ gfm: true, breaks: true, extensions: mathExtensions(true) });

function v(tag: VElement["tag"], attributes: Readonly<Record<string, string>>, ...children: readonly VNode[]): VElement {
  return { tag, attributes, children };
}

/** One block as a node; null if it shows nothing. */
export function blockNode(token: Token, growing = false, depth = 0): VElement | null {
  if (depth > MAX_DEPTH) return v("p", { dir: "auto" }, token.raw);
  if (isMath(token)) return token.open ? null : mathNode(token);
  const known = token as MarkedToken;
  // A list or quotation takes its direction from its first letters, so it is set on the outermost block only.
  const direction: Readonly<Record<string, string>> = depth === 0 ? { dir: "auto" } : {};
  switch (known.type) {
    case "paragraph":
      return v("p", direction, ...inlineNodes(known.tokens));
    case "text": // the content of a list's item
      return v("span", {}, ...inlineNodes(known.tokens ?? [known]));
    case "heading":
      // The first heading levels are the notebook's own.
      return v(HEADINGS[known.depth] ?? "h6", direction, ...inlineNodes(known.tokens));
    case "code":
      return codeNode(known.text, (known.lang ?? "").trim().split(/\s/)[0] ?? "", growing);
    case "blockquote":
      return v("blockquote", direction, ...blockNodes(known.tokens, growing, depth + 1));
    case "list":
      return listNode(known, growing, depth);
    case "table":
      return tableNode(known);
    case "hr":
      return v("hr", {});
    case "html":
      return v("p", { dir: "auto", class: "mlcw-md-raw" }, known.raw.trimEnd());
    case "space":
    case "def":
    case "checkbox":
      return null;
    default:
      return v("p", { dir: "auto" }, token.raw);
  }
}

const HEADINGS: Readonly<Record<number, "h3" | "h4" | "h5" | "h6">> = { 1: "h3", 2: "h4", 3: "h5" };

export function blockNodes(tokens: readonly Token[], growing = false, depth = 0): VElement[] {
  return tokens.map((token) => blockNode(token, growing, depth)).filter((node) => node !== null);
}

const isMath = (token: Token): token is MathToken => token.type === "math";

const PYTHON: ReadonlySet<string> = new Set(["", "py", "python", "python3", "ipython", "ipython3"]);

/** Shown where the host has cells; the last class is what `view.ts` knows them by. */
const CELL_TOOLS: readonly VElement[] = [
  ["run", "Run", "Run in a new cell below"],
  ["insert", "Insert", "Insert as a new cell below"],
  ["replace", "Replace", "Replace the cell above"],
].map(([name, label, title]) =>
  v("button", { type: "button", class: `mlcw-copy mlcw-cell mlcw-cell-${name ?? ""}`, title: title ?? "" }, label ?? ""));

/** A code block with the name of its language and a Copy button. */
export function codeNode(code: string, language: string, growing: boolean): VElement {
  return v(
    "div",
    { class: "mlcw-code" },
    v(
      "div",
      { class: language ? "mlcw-code-head" : "mlcw-code-head mlcw-unlabelled" },
      v("span", {}, language),
      v(
        "span",
        { class: "mlcw-code-tools" },
        ...(!growing && PYTHON.has(language.toLowerCase()) ? CELL_TOOLS : []),
        v("button", { type: "button", class: "mlcw-copy", title: "Copy code" }, "Copy"),
      ),
    ),
    v(
      "pre",
      { dir: "ltr", tabindex: "0", role: "group", "aria-label": "Code" },
      v("code", {}, ...highlight(code, language, growing)),
    ),
  );
}

function listNode(token: Tokens.List, growing: boolean, depth: number): VElement {
  const items = token.items.map((item) => {
    const box = item.task ? [v("span", { class: "mlcw-task" }, item.checked === true ? "☑ " : "☐ ")] : [];
    return v("li", item.task ? { class: "mlcw-task-item" } : {}, ...box, ...blockNodes(item.tokens, growing, depth + 1));
  });
  const looseness = { ...(depth === 0 ? { dir: "auto" } : {}), ...(token.loose ? { class: "mlcw-loose" } : {}) };
  if (!token.ordered) return v("ul", looseness, ...items);
  const start = typeof token.start === "number" && token.start !== 1 ? { start: String(token.start) } : {};
  return v("ol", { ...looseness, ...start }, ...items);
}

function tableNode(token: Tokens.Table): VElement {
  const cell = (tag: "td" | "th", of: Tokens.TableCell): VElement =>
    v(tag, of.align ? { class: `mlcw-${of.align}` } : {}, ...inlineNodes(of.tokens));
  const row = (tag: "td" | "th", cells: readonly Tokens.TableCell[]): VElement =>
    v("tr", {}, ...cells.map((of) => cell(tag, of)));
  return v(
    "div",
    { class: "mlcw-table", tabindex: "0", role: "group", "aria-label": "Table" },
    v(
      "table",
      { dir: "auto" },
      v("thead", {}, row("th", token.header)),
      v("tbody", {}, ...token.rows.map((cells) => row("td", cells))),
    ),
  );
}

function inlineNodes(tokens: readonly Token[], depth = 0): VNode[] {
  if (depth > MAX_DEPTH) return tokens.map((token) => token.raw);
  return tokens.map((token): VNode => {
    if (isMath(token)) return mathNode(token);
    const known = token as MarkedToken;
    switch (known.type) {
      case "text":
        return known.tokens ? v("span", {}, ...inlineNodes(known.tokens, depth + 1)) : decodeEntities(known.text);
      case "escape":
        return known.text;
      case "strong":
      case "em":
      case "del":
        return v(known.type, {}, ...inlineNodes(known.tokens, depth + 1));
      case "codespan":
        return v("code", { dir: "ltr" }, known.text);
      case "br":
        return v("br", {});
      case "link":
        return linkNode(known.href, inlineNodes(known.tokens, depth + 1), known.raw);
      case "image": {
        const label = known.text || "image";
        return linkNode(known.href, [`🖼 ${label}`], known.raw);
      }
      case "checkbox":
        return "";
      default:
        return token.raw;
    }
  });
}

/** A link that only a click opens; shown as its source if it is not a plain web or mail address. */
function linkNode(href: string, children: readonly VNode[], raw: string): VNode {
  const address = safeAddress(href);
  if (address === null) return raw;
  return v("a", { class: "mlcw-link", role: "link", tabindex: "0", title: address }, ...children);
}

/** The address if it is an absolute http, https or mailto URL. (Relative ones would point into the host's server.) */
export function safeAddress(href: string): string | null {
  try {
    const url = new URL(href);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

const ENTITIES: Readonly<Record<string, string>> = {
  amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", hellip: "…", ndash: "–", mdash: "—", copy: "©",
};

/** Decodes character references in Markdown; the result is text, never markup. */
export function decodeEntities(text: string): string {
  return text.replace(/&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|(\w{2,8}));/g, (whole, decimal, hex, name) => {
    if (typeof name === "string") return ENTITIES[name] ?? whole;
    const code = typeof decimal === "string" ? Number.parseInt(decimal, 10) : Number.parseInt(String(hex), 16);
    const valid = code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff);
    return valid ? String.fromCodePoint(code) : "\ufffd";
  });
}
