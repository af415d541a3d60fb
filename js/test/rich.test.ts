import { afterEach, beforeEach, describe, expect, it } from "vitest";

import { indentJson, isJson, splitThoughts } from "../src/answer.ts";
import { highlight } from "../src/markdown/highlight.ts";
import { closeOpenMarks } from "../src/markdown/partial.ts";
import { MarkdownView } from "../src/markdown/view.ts";

let page: AbortController;
beforeEach(() => { page = new AbortController(); });
afterEach(() => { page.abort(); });

function shown(source: string, complete = true): HTMLElement {
  const view = new MarkdownView(page.signal);
  view.update(source, complete);
  return view.node;
}

describe("math", () => {
  it.each([
    ["a $x^2$ b", "inline"], ["a \\(x^2\\) b", "inline"], ["$$x^2$$", "block"], ["\\[x^2\\]", "block"],
    ["text\n$$\nx^2\n$$\nmore", "block"], ["so $$x^2$$ is", "block"],
  ])("%j is %s MathML", (source, kind) => {
    const node = shown(source);
    const math = node.querySelector("math");
    expect(math?.namespaceURI).toBe("http://www.w3.org/1998/Math/MathML");
    expect(math?.querySelector("msup")?.textContent).toBe("x2");
    expect(math?.getAttribute("display") ?? "inline").toBe(kind);
    expect(node.querySelector("[style]")).toBeNull();
  });

  it.each(["It costs $5 and $10.", "from $5-$10", "echo $HOME", "$ x $", "`$x$`", "a \\$5 b$", "$$"])(
    "%j is not a formula", (source) => { expect(shown(source).querySelector("math")).toBeNull(); },
  );

  it("is shown as written if it is not valid", () => {
    expect(shown("$\\frac{1$").textContent).toBe("$\\frac{1$");
    expect(shown(`$${"{".repeat(3000)}$`).textContent).toContain("{{{");
  });

  it.each([
    ["the rate $\\eta", "the rate "], ["see $$x^2", "see "], ["so \\(a+", "so "], ["costs $5 and", "costs $5 and"],
    ["a $x$ b", "a $x$ b"], ["`$x", "`$x`"], ["a $", "a "],
  ])("%j is held back until it is complete: %j", (source, closed) => { expect(closeOpenMarks(source)).toBe(closed); });

  it("never shows its source while it grows", () => {
    const source = "Let $f(x) = \\frac{1}{x}$ and\n\n$$\n\\sum_i x_i\n= y\n$$\n\nthen \\(a_b\\) and \\[c\\] end.";
    const view = new MarkdownView(page.signal);
    for (let end = 1; end <= source.length; end++) {
      view.update(source.slice(0, end), false);
      expect(view.node.textContent).not.toMatch(/\\|\$|_|frac/);
      expect(view.node.querySelector("h3, h4")).toBeNull();
    }
    view.update(source, true);
    expect(view.node.isEqualNode(shown(source))).toBe(true);
  });
});

describe("code", () => {
  it("is coloured by our own spans, and its text is unchanged", () => {
    const source = 'def f(x):\n    return f"{x}" # c';
    const node = shown(`\`\`\`python\n${source}\n\`\`\``);
    expect(node.querySelector("code")?.textContent).toBe(source);
    expect(node.querySelector(".mlcw-hl-keyword")?.textContent).toBe("def");
    expect(node.querySelector(".mlcw-hl-comment")?.textContent).toBe("# c");
  });

  it("keeps its nodes while it grows", () => {
    const view = new MarkdownView(page.signal);
    view.update("```py\ndef f():\n", false);
    const first = view.node.querySelector(".mlcw-hl-keyword");
    view.update("```py\ndef f():\n    return 1\n", false);
    expect(view.node.querySelector(".mlcw-hl-keyword")).toBe(first);
  });

  it("stays plain if it is very long or its language unknown", () => {
    expect(highlight("x = 1", "klingon", false)).toEqual(["x = 1"]);
    const long = "x = 1\n".repeat(5000);
    expect(highlight(long, "python", true)).toEqual([long]);
    expect(highlight(long, "python", false).length).toBeGreaterThan(5000);
  });
});

describe("direction", () => {
  it("is taken from a block's own letters, not from code or formulas", () => {
    const node = shown("`x` نص\n\n- نص\n\n> نص");
    for (const block of node.children) expect(block.getAttribute("dir")).toBe("auto");
    expect(node.querySelector("code")?.getAttribute("dir")).toBe("ltr");
    expect(node.querySelector("li [dir], blockquote [dir]")).toBeNull();
  });
});

describe("thoughts", () => {
  it.each([
    ["<think>hm</think>Yes", "", false, ["hm", "Yes", false]],
    ["<think>hm</th", "", true, ["hm", "", true]],
    ["<thi", "", true, ["", "", false]],
    ["<thi", "", false, ["", "<thi", false]],
    ["Yes <think>", "", true, ["", "Yes <think>", false]],
    ["", "hm", true, ["hm", "", true]],
    ["Yes", "hm", true, ["hm", "Yes", false]],
    ["<think>never ends", "", false, ["never ends", "", false]],
  ] as const)("of %j and %j", (source, reasoning, growing, [thoughts, text, thinking]) => {
    expect(splitThoughts(source, reasoning, growing)).toEqual({ thoughts, text, thinking });
  });
});

describe("JSON", () => {
  it.each([['{"a": 1}', false, true], ["{ not", false, false], ['{"a": ', false, false], ["[1]", true, true], ["[1](x)", false, false], ["Text", true, false]])(
    "%j, asked for: %s", (text, asked, json) => { expect(isJson(text, asked, false)).toBe(json); },
  );

  it("is indented as JSON.stringify does, and grows only at its end", () => {
    const value = { a: [1, 2, { b: 'x "y" \\ {' }], c: {}, d: [], e: null };
    const source = JSON.stringify(value);
    expect(indentJson(source)).toBe(JSON.stringify(value, null, 2));
    let before = "";
    for (let end = 1; end <= source.length; end++) {
      const now = indentJson(source.slice(0, end));
      expect(now.startsWith(before.trimEnd())).toBe(true);
      before = now;
    }
  });
});
