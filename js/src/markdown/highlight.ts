/** Syntax highlighting: highlight.js parses the code, and its tree becomes our own spans. */

import core from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import cpp from "highlight.js/lib/languages/cpp";
import csharp from "highlight.js/lib/languages/csharp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import dockerfile from "highlight.js/lib/languages/dockerfile";
import go from "highlight.js/lib/languages/go";
import haskell from "highlight.js/lib/languages/haskell";
import ini from "highlight.js/lib/languages/ini";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import julia from "highlight.js/lib/languages/julia";
import kotlin from "highlight.js/lib/languages/kotlin";
import latex from "highlight.js/lib/languages/latex";
import lua from "highlight.js/lib/languages/lua";
import makefile from "highlight.js/lib/languages/makefile";
import markdown from "highlight.js/lib/languages/markdown";
import matlab from "highlight.js/lib/languages/matlab";
import perl from "highlight.js/lib/languages/perl";
import php from "highlight.js/lib/languages/php";
import python from "highlight.js/lib/languages/python";
import pythonRepl from "highlight.js/lib/languages/python-repl";
import r from "highlight.js/lib/languages/r";
import ruby from "highlight.js/lib/languages/ruby";
import rust from "highlight.js/lib/languages/rust";
import scala from "highlight.js/lib/languages/scala";
import shell from "highlight.js/lib/languages/shell";
import sql from "highlight.js/lib/languages/sql";
import swift from "highlight.js/lib/languages/swift";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import type { VNode } from "./tree.ts";

const LANGUAGES = {
  bash, c, cpp, csharp, css, diff, dockerfile, go, haskell, ini, java, javascript, json, julia, kotlin, latex, lua,
  makefile, markdown, matlab, perl, php, python, "python-repl": pythonRepl, r, ruby, rust, scala, shell, sql, swift,
  typescript, xml, yaml,
};
for (const [name, language] of Object.entries(LANGUAGES)) core.registerLanguage(name, language);
core.registerAliases(["ipython", "ipython3"], { languageName: "python" });

/** Characters; longer code is not highlighted. The limit is lower while it grows, as each step highlights it all. */
const MAX_GROWING = 20_000;
const MAX_WHOLE = 200_000;

/** Maps highlight.js's many scopes to the few for which the style sheet has colours. */
const KINDS: Readonly<Record<string, string>> = {
  addition: "added", attr: "name", attribute: "name", bullet: "keyword", built_in: "built", class: "title",
  code: "string", comment: "comment", deletion: "deleted", doctag: "comment", function: "title", keyword: "keyword",
  link: "string", literal: "number", meta: "meta", name: "keyword", number: "number", property: "name", quote: "comment",
  regexp: "string", section: "title", string: "string", symbol: "number", tag: "keyword", title: "title", type: "built",
  variable: "name", "selector-tag": "keyword", "selector-id": "title", "selector-class": "title",
};

interface Part {
  readonly scope?: unknown;
  readonly children: readonly (Part | string)[];
}

export function highlight(code: string, language: string, growing: boolean): VNode[] {
  const name = language.toLowerCase();
  if (!core.getLanguage(name) || code.length > (growing ? MAX_GROWING : MAX_WHOLE)) return [code];
  try {
    const result = core.highlight(code, { language: name, ignoreIllegals: true });
    const root = (result._emitter as unknown as { rootNode: Part }).rootNode;
    const nodes = root.children.flatMap(nodesOf);
    return nodes.length > 0 ? nodes : [""];
  } catch {
    return [code];
  }
}

function nodesOf(part: Part | string): VNode[] {
  if (typeof part === "string") return [part];
  const children = part.children.flatMap(nodesOf);
  const kind = typeof part.scope === "string" ? KINDS[part.scope.split(".")[0] ?? ""] : undefined;
  return kind === undefined ? children : [{ tag: "span", attributes: { class: `mlcw-hl-${kind}` }, children }];
}
