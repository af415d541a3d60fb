/** Every prefix of every hostile text. (tests/browser checks that nothing is run or fetched.) */

import { afterEach, beforeEach, describe, expect, it } from "vitest";

import corpus from "./hostile.json?raw";
import { isAllowedAttribute, isAllowedTag, setAttributes, makeElement } from "../src/markdown/allowed.ts";
import { MarkdownView } from "../src/markdown/view.ts";

const groups = JSON.parse(corpus) as Readonly<Record<string, readonly string[]>>;
const payloads = Object.values(groups).flat();

let page: AbortController;
beforeEach(() => { page = new AbortController(); });
afterEach(() => { page.abort(); });

describe("hostile text", () => {
  it("comes in many forms", () => { expect(new Set(payloads).size).toBeGreaterThan(150); });

  it.each(Object.keys(groups))("%s becomes allowed elements only, at every length", (group) => {
    for (const payload of groups[group] ?? []) {
      const view = new MarkdownView(page.signal);
      const step = Math.max(1, Math.floor(payload.length / 40));
      for (let end = step; end < payload.length; end += step) {
        view.update(payload.slice(0, end), false);
        check(view.node, payload);
      }
      view.update(payload, true);
      check(view.node, payload);
    }
  });
});

function check(root: Element, payload: string): void {
  for (const element of root.querySelectorAll("*")) {
    expect(isAllowedTag(element.localName), payload).toBe(true);
    for (const { name, value } of element.attributes) {
      expect(isAllowedAttribute(element.localName, name, value), `${name} of ${payload}`).toBe(true);
      expect(name, payload).not.toMatch(/^(on|data-|id$|name$|style$|href|src|xlink)/);
    }
  }
}

describe("the last step before the page", () => {
  it("makes no other elements, whatever it is asked for", () => {
    for (const tag of ["script", "img", "iframe", "svg", "style", "form", "input", "object", "maction", "annotation-xml"]) {
      expect(makeElement(tag).localName).toBe("span");
    }
    const element = makeElement("a");
    setAttributes(element, {
      href: "https://a.example", id: "x", name: "cookie", style: "color:red", onclick: "alert(1)",
      "data-commandlinker-command": "x", class: "jp-mod-active", title: "javascript:1", role: "button",
    });
    expect(element.attributes).toHaveLength(0);
    setAttributes(element, { class: "mlcw-link", title: "https://a.example/", role: "link", tabindex: "0" });
    expect(element.attributes).toHaveLength(4);
    setAttributes(element, { __proto__: "x", constructor: "y" });
    expect(element.attributes).toHaveLength(0);
  });
});
