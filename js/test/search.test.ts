import { describe, expect, it } from "vitest";

import { h } from "../src/dom.ts";
import widget from "../src/index.ts";
import { findText } from "../src/views/search.ts";
import { FakeModel } from "./fakes.ts";
import { box, frame, page, query } from "./page.ts";

const ready = { rev: 1, state: "ready", model: "demo", device: "cpu", progress: null, error: null };
const message = (id: string, role: string, text: string): object => ({ id, role, text, status: "done" });

describe("findText", () => {
  /** What is found in a box with one element per part. */
  const found = (parts: readonly string[], text: string): string[] => {
    box.replaceChildren(...parts.map((part) => h("b", {}, part)));
    return findText(box, text).map((range) => range.toString());
  };

  it.each([
    ["in any case, and more than once", ["Rome and rome"], "ROME", ["Rome", "rome"]],
    ["across elements", ["an ", "old", " city"], "old city", ["old city"]],
    ["as text, not as a pattern", ["f(x) = a.b [1] \\n a-b"], "(x) = a.b [1] \\n a-b", ["(x) = a.b [1] \\n a-b"]],
    ["where letters change their length", ["İstanbul, istanbul"], "istanbul", ["istanbul"]],
    ["nothing for white space", ["a b"], " ", []],
    ["nothing that is not there", ["ab", "c"], "x", []],
    ["emoji", ["a 😀 b"], "😀", ["😀"]],
  ])("finds %s", (_, parts, text, expected) => {
    expect(found(parts, text)).toEqual(expected);
  });

  it("is bounded", () => {
    expect(found(["a".repeat(5000)], "a")).toHaveLength(1000);
  });
});

describe("the search of a chat", () => {
  const count = (): string => query(".mlcw-search-count").textContent;

  it("goes from match to match, hears of new messages, and leaves the answer alone", async () => {
    const messages = [message("u", "user", "Tell me of Rome"), message("a", "assistant", "**Ro**me is old. Rome!")];
    const model = new FakeModel({ _view: "chat", _engine: ready, _chat: { rev: 1, messages }, _live: {} });
    widget.initialize({ model, signal: page.signal });
    widget.render({ model, el: box, signal: page.signal });
    query('[aria-label="Search"]').click();
    const input = query(".mlcw-search input") as HTMLInputElement;
    const press = (key: string, shiftKey = false): boolean =>
      input.dispatchEvent(new KeyboardEvent("keydown", { key, shiftKey, bubbles: true, cancelable: true }));
    expect(document.activeElement).toBe(input);
    input.value = "rome";
    input.dispatchEvent(new Event("input"));
    expect(count()).toBe("1 of 3");
    press("Enter");
    press("Enter");
    expect(count()).toBe("3 of 3");
    press("Enter");
    expect(count()).toBe("1 of 3");
    press("Enter", true);
    expect(count()).toBe("3 of 3");
    model.change("_chat", { rev: 2, messages: [...messages, message("v", "user", "Rome?")] });
    await frame();
    expect(count()).toBe("3 of 4");
    input.value = "Oslo";
    input.dispatchEvent(new Event("input"));
    expect(count()).toBe("Not found");
    press("Escape");
    expect(query(".mlcw-search").hidden).toBe(true);
    expect(document.activeElement).toBe(query('[aria-label="Search"]'));
    expect((model.sent as { intent: { kind: string } }[]).filter(({ intent }) => intent.kind === "stop")).toEqual([]);
  });
});
