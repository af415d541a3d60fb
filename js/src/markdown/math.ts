/**
 * Converts TeX in Markdown to MathML: `$…$`, `\(…\)`, `$$…$$`, `\[…\]`.
 *
 * It reads Temml's tree, never its markup. Colours, links and anything else that needs an inline
 * style or a URL are left out. The browser's own fonts are used.
 */

import temml from "temml";
import type { TokenizerAndRendererExtension, Tokens } from "marked";
import type { VElement, VNode } from "./tree.ts";

export interface MathToken extends Tokens.Generic {
  readonly type: "math";
  readonly tex: string;
  readonly display: boolean;
  /** Whether its closing mark is still to come. */
  readonly open: boolean;
}

/** Characters; longer formulas are shown as TeX. */
const MAX_LENGTH = 4000;
const MAX_DEPTH = 60;

// A blank line ends a formula, as it does in TeX.
const BLOCK = /^ {0,3}(?:\$\$((?:(?!\n[ \t]*\n)[^$])+?)\$\$|\\\[((?:(?!\n[ \t]*\n)[\s\S])+?)\\\])[ \t]*(?:\n+|$)/;
const OPEN_BLOCK = /^ {0,3}(?:\$\$|\\\[)((?:(?!\n[ \t]*\n|\$\$|\\\])[\s\S])*)$/;
const BLOCK_START = /(?:^|\n) {0,3}(?:\$\$|\\\[)/;
const INLINE: readonly { readonly rule: RegExp; readonly display: boolean }[] = [
  { rule: /^\$\$((?:(?!\n[ \t]*\n)[^$])+?)\$\$/, display: true },
  { rule: /^\\\[((?:(?!\n[ \t]*\n)[\s\S])+?)\\\]/, display: true },
  { rule: /^\\\(((?:(?!\n[ \t]*\n)[\s\S])+?)\\\)/, display: false },
  // As in Pandoc: no space just inside the marks and no digit after them, so that prices are not formulas.
  { rule: /^\$(?!\s)((?:\\[^\n]|[^$\\\n])*?[^\s\\$]|\\[^\n])\$(?!\d)/, display: false },
];

function token(raw: string, tex: string, display: boolean, open = false): MathToken {
  return { type: "math", raw, tex: tex.trim(), display, open };
}

/** Extensions of marked for formulas. With `growing`, one whose closing mark is still to come is a formula, too. */
export function mathExtensions(growing: boolean): TokenizerAndRendererExtension[] {
  return [
    {
      name: "mathBlock",
      level: "block",
      start: (source: string) => BLOCK_START.exec(source)?.index,
      tokenizer: (source: string): MathToken | undefined => {
        const match = BLOCK.exec(source);
        if (match) return token(match[0], match[1] ?? match[2] ?? "", true);
        const open = growing ? OPEN_BLOCK.exec(source) : null;
        return open ? token(open[0], open[1] ?? "", true, true) : undefined;
      },
    },
    {
      name: "mathInline",
      level: "inline",
      start: (source: string) => /\$|\\[([]/.exec(source)?.index,
      tokenizer: (source: string): MathToken | undefined => {
        for (const { rule, display } of INLINE) {
          const match = rule.exec(source);
          if (match) return token(match[0], match[1] ?? "", display);
        }
        return undefined;
      },
    },
  ];
}

/** The length of the formula that begins at `at`; 0 if there is none, null if its end is still to come. */
export function mathLength(text: string, at: number): number | null {
  const rest = text.slice(at);
  for (const { rule } of INLINE) {
    const match = rule.exec(rest);
    if (match) return match[0].length;
  }
  if (/^\\[([]/.test(rest) || rest === "$" || rest === "\\" || rest.startsWith("$$")) return null;
  if (!rest.startsWith("$")) return 0;
  // A price, a shell variable or a formula? It is held back only as long as it may be a formula.
  const maybe = /^\$[^\s$][^$\n]{0,200}$/.test(rest) && !/^\$\d[\d.,]*(?:[\s)!?;:]|[a-z]+\b)/i.test(rest);
  return maybe ? null : 0;
}

/** A formula as a node; its source if it is not valid TeX. */
export function mathNode({ tex, display, raw }: MathToken): VElement {
  try {
    if (tex.length > MAX_LENGTH) throw new Error("too long");
    const tree: unknown = temml.__renderToMathMLTree(tex, {
      displayMode: display,
      throwOnError: true,
      trust: false,
      maxExpand: 200,
      maxSize: [20, 20],
      annotate: false,
    });
    const [math] = convert(tree, 0);
    if (!math || typeof math === "string") throw new Error("no formula");
    return display
      ? { tag: "div", attributes: { class: "mlcw-math", tabindex: "0", role: "group", "aria-label": "Formula" }, children: [math] }
      : math;
  } catch {
    return { tag: "code", attributes: { class: "mlcw-tex" }, children: [raw.trim()] };
  }
}

interface TemmlNode {
  readonly type?: unknown;
  readonly text?: unknown;
  readonly attributes?: Readonly<Record<string, unknown>>;
  readonly classes?: readonly unknown[];
  readonly children?: readonly unknown[];
}

const ALIGN: Readonly<Record<string, string>> = {
  "tml-left": "mlcw-left", "tml-right": "mlcw-right",
};

function convert(value: unknown, depth: number): VNode[] {
  if (depth > MAX_DEPTH) throw new Error("nested too deeply");
  if (typeof value !== "object" || value === null) return [];
  const node = value as TemmlNode;
  if (typeof node.text === "string") return [node.text];
  const children = (node.children ?? []).flatMap((child) => convert(child, depth + 1));
  if (typeof node.type !== "string") return children; // a fragment
  const attributes: Record<string, string> = {};
  for (const [name, content] of Object.entries(node.attributes ?? {})) {
    if (typeof content === "string" || typeof content === "number") attributes[name] = String(content);
  }
  delete attributes["class"];
  if (node.type === "math") attributes["dir"] = "ltr";
  const align = (node.classes ?? []).map((name) => ALIGN[String(name)]).find((name) => name !== undefined);
  if (align !== undefined) attributes["class"] = align;
  return [{ tag: node.type, attributes, children }];
}
