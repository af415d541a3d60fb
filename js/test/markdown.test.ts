import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { decodeEntities, safeAddress } from "../src/markdown/nodes.ts";
import { closeOpenMarks, withoutUndecided } from "../src/markdown/partial.ts";
import { MarkdownView } from "../src/markdown/view.ts";

let page: AbortController;
beforeEach(() => { page = new AbortController(); });
afterEach(() => { page.abort(); });

function shown(source: string, complete = true): HTMLElement {
  const view = new MarkdownView(page.signal);
  view.update(source, complete);
  return view.node;
}

const DOCUMENT = `# Kernels

A **kernel** is the *process* that runs your \`code\`.
It has three parts:

1. a queue of messages,
2. an interpreter with \`state\`:
   - names
   - modules, such as **numpy**
3. sockets

| part | count | note |
|:-----|------:|:----:|
| shell | 1 | see [the docs](https://jupyter.org) |
| iopub | 1 | **broadcast** |

> Quoted,
> on two lines.

\`\`\`python
def f(x):
    return x ** 2  # not **bold**
\`\`\`

- [x] done
- [ ] to do

Text with 5 * 3 = 15, snake_case_name and ~~old~~ new; 🦙 at the end.

---

Bye.
`;

describe("whole documents", () => {
  it("become the right elements", () => {
    const node = shown(DOCUMENT);
    const outline = [...node.children].map((child) => child.localName + (child.className ? `.${child.className}` : ""));
    expect(outline).toEqual([
      "h3", "p", "ol", "div.mlcw-table", "blockquote", "div.mlcw-code", "ul", "p", "hr", "p",
    ]);
    expect(node.querySelector("p strong")?.textContent).toBe("kernel");
    expect(node.querySelectorAll("ol > li")).toHaveLength(3);
    expect(node.querySelector("ol ul strong")?.textContent).toBe("numpy");
    expect(node.querySelectorAll("tbody td")).toHaveLength(6);
    expect(node.querySelector("pre code")?.textContent).toBe("def f(x):\n    return x ** 2  # not **bold**");
    expect(node.querySelector(".mlcw-code-head span")?.textContent).toBe("python");
    expect(node.textContent).toContain("☑ done");
    expect(node.textContent).toContain("5 * 3 = 15, snake_case_name and old new; 🦙");
    expect(node.querySelector("p br")).not.toBeNull();
  });

  it.each(["a\r\nb", "* * *", "", "   ", "\n\n", "```", "|", "[x]: http://a", "&amp; &lt;b&gt; &#65;"])(
    "%j is shown without harm", (source) => { expect(() => shown(source)).not.toThrow(); },
  );

  it("are shown as written if they are nested too deeply", () => {
    const deep = `${"> ".repeat(20_000)}deep`;
    expect(shown(deep).textContent).toContain("deep");
    expect(shown(`${"[".repeat(5_000)}x`).textContent).toContain("x");
    expect(shown("- ".repeat(2_000)).querySelectorAll("*").length).toBeLessThan(500);
  });
});

describe("documents that grow", () => {
  it("end as if they had arrived at once, and finished blocks keep their nodes", () => {
    const points = Array.from(DOCUMENT);
    const view = new MarkdownView(page.signal);
    let finished: Element[] = [];
    for (let count = 1; count <= points.length; count++) {
      view.update(points.slice(0, count).join(""), false);
      const blocks = [...view.node.children];
      expect(blocks.slice(0, finished.length)).toEqual(finished);
      finished.forEach((block, index) => { expect(blocks[index]).toBe(block); });
      finished = blocks.slice(0, -1);
    }
    const last = [...view.node.children];
    view.update(DOCUMENT, true);
    expect(view.node.isEqualNode(shown(DOCUMENT))).toBe(true);
    expect([...view.node.children].slice(0, last.length)).toEqual(last);
  });

  it("stand in parts when they are long, and are the same as if they had arrived at once", () => {
    const source = `${DOCUMENT}\n`.repeat(4);
    const view = new MarkdownView(page.signal);
    let finished: Element[] = [];
    for (let length = 1; length < source.length; length += 9) {
      view.update(source.slice(0, length), false);
      const blocks = [...view.node.querySelectorAll(":scope > :not(.mlcw-md-part), :scope > .mlcw-md-part > *")];
      finished.forEach((block, index) => { expect(blocks[index]).toBe(block); });
      finished = blocks.slice(0, -1);
    }
    view.update(source, true);
    const parts = [...view.node.children].filter((node) => node.classList.contains("mlcw-md-part"));
    expect(parts.length).toBeGreaterThan(5);
    for (const part of parts) {
      expect(part.children.length).toBeLessThan(8);
      expect(part.lastElementChild?.matches("h3, h4, h5, h6")).toBe(false);
      expect(part.classList.contains("mlcw-md-done")).toBe(!parts.slice(-2).includes(part));
      part.classList.remove("mlcw-md-done"); // those that arrived at once were never laid out
    }
    expect(view.node.isEqualNode(shown(source))).toBe(true);
    for (const part of parts) part.replaceWith(...part.childNodes);
    const once = [...shown(DOCUMENT).children];
    expect(view.node.children).toHaveLength(4 * once.length);
    [...view.node.children].forEach((block, index) => {
      expect(block.isEqualNode(once[index % once.length] ?? null)).toBe(true);
    });

    view.update("Another text", true);
    expect(view.node.isEqualNode(shown("Another text"))).toBe(true);
  });

  it("never show a mark that formatting will replace", () => {
    const source = "Some **bold words**, *slanted ones*, `code`, ~~old~~ and [a link](https://example.org/x) end.";
    const view = new MarkdownView(page.signal);
    for (let count = 1; count <= source.length; count++) {
      view.update(source.slice(0, count), false);
      expect(view.node.textContent).not.toMatch(/[*`~]|\]\(|https/);
    }
  });

  it("grow a code block in one text node", () => {
    const view = new MarkdownView(page.signal);
    view.update("```\na = 1", false);
    const text = view.node.querySelector("code")?.firstChild;
    view.update("```\na = 1\nb = 2\n``", false);
    expect(view.node.querySelector("code")?.firstChild).toBe(text);
    expect(text?.textContent).toBe("a = 1\nb = 2");
  });

  it("do not flash a heading or pipes while a list or a table begins", () => {
    expect(shown("Parts:\n-", false).querySelector("h3, h4")).toBeNull();
    expect(shown("| a | b |\n|--", false).textContent).toBe("");
    expect(shown("| a | b |\n|---|---|\n| 1", false).querySelector("table")).not.toBeNull();
  });
});

describe("open marks", () => {
  it.each([
    ["**bo", "**bo**"], ["**bold**", "**bold**"], ["a **b `c", "a **b `c`**"], ["***x", "***x***"],
    ["x ** y", "x ** y"], ["2 * 3", "2 * 3"], ["a*b", "a*b"], ["so *wh", "so *wh*"], ["snake_ca", "snake_ca"],
    ["~~ol", "~~ol~~"], ["~5", "~5"], ["a `", "a "], ["a **", "a "], ["\\*a", "\\*a"], ["see [docs](htt", "see docs"],
    ["![pic](http", ""], ["[1] and", "[1] and"], ["- one\n- **tw", "- one\n- **tw**"], ["**bold ", "**bold**"],
    ["a `b` *c* d", "a `b` *c* d"],
  ])("%j are closed: %j", (source, closed) => { expect(closeOpenMarks(source)).toBe(closed); });

  it.each([
    ["a\n-", "a\n"], ["a\n1.", "a\n"], ["a\n``", "a\n"], ["a - b", "a - b"], ["#", ""], ["# T", "# T"], ["a\n---\n", "a\n---\n"],
  ])("%j: undecided lines are held back", (source, decided) => { expect(withoutUndecided(source)).toBe(decided); });
});

describe("what the model writes", () => {
  const payloads = [
    "<script>alert(1)</script>", '<img src=x onerror=alert(1)>', "<svg/onload=alert(1)>", "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))", "[x](data:text/html,<script>alert(1)</script>)", "[x](/api/kernels)", "[x](//evil.example)",
    "![x](https://evil.example/?q=secret)", "<a href=javascript:alert(1)>x</a>", '<form id=a name=cookie><input name=b>',
    '<div data-commandlinker-command="x" data-commandlinker-args="{}">', "<math><mi xlink:href='javascript:alert(1)'>",
    '[x](https://a.example "onmouseover=alert(1)")', "<iframe srcdoc='<script>alert(1)</script>'>", "<style>*{display:none}</style>",
    "```<script>\nalert(1)\n```", "| <b onclick=alert(1)>x</b> |\n|---|\n| <img src=x onerror=alert(1)> |", "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<!-- --><script>alert(1)</script>", "[a]: javascript:alert(1)\n\n[a]", "<https://evil.example>", "https://evil.example/auto",
    "<object data=x>", "[x](https://u:p@evil.example)", "[<img src=x onerror=alert(1)>](https://a.example)", "\u202Eevil",
  ];
  const TAGS = "a blockquote br button code del div em h3 h4 h5 h6 hr li ol p pre span strong table tbody td th thead tr ul".split(" ");
  const ATTRIBUTES = "class dir title role tabindex start type aria-label display".split(" ");

  it.each(payloads)("%j stays text", (payload) => {
    const view = new MarkdownView(page.signal);
    for (let count = 1; count <= payload.length; count++) view.update(payload.slice(0, count), false);
    view.update(payload, true);
    for (const element of view.node.querySelectorAll("*")) {
      expect(TAGS).toContain(element.localName);
      for (const attribute of element.attributes) expect(ATTRIBUTES).toContain(attribute.name);
      expect(element.className === "" || element.className.startsWith("mlcw-")).toBe(true);
    }
  });

  it("opens a link only when it is clicked, and without access to this page", () => {
    const open = vi.spyOn(window, "open").mockReturnValue(null);
    const node = shown("[docs](https://example.org/a)");
    document.body.append(node);
    const link = node.querySelector("a");
    expect(link?.hasAttribute("href")).toBe(false);
    link?.click();
    expect(open).toHaveBeenCalledWith("https://example.org/a", "_blank", "noopener,noreferrer");
    open.mockRestore();
  });

  it.each([
    ["https://a.example/", "https://a.example/"], ["mailto:a@b.example", "mailto:a@b.example"], ["javascript:1", null],
    ["/lab", null], ["//a.example", null], ["file:///etc/passwd", null], ["", null],
  ])("address %j", (href, address) => { expect(safeAddress(href)).toBe(address); });

  it.each([["&lt;b&gt;", "<b>"], ["&#x1F999;", "🦙"], ["&#0;", "\ufffd"], ["&unknown;", "&unknown;"], ["a & b", "a & b"]])(
    "reference %j", (source, text) => { expect(decodeEntities(source)).toBe(text); },
  );
});
