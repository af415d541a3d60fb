import { describe, expect, it, vi } from "vitest";

import type { FakeModel } from "./fakes.ts";
import { box, frame, query, show } from "./page.ts";

const ready = { rev: 1, state: "ready", model: "demo", device: "cpu", progress: null, error: null };
const said = [{ id: "u", role: "user", text: "Why?", status: "done" }];
const open = (title: unknown): FakeModel =>
  show({ _view: "chat", _engine: ready, _chat: { rev: 1, messages: said, title }, _live: {} });
const intents = (model: FakeModel): unknown[] =>
  (model.sent as { intent: unknown }[]).map(({ intent }) => intent).filter((intent) => (intent as { kind: string }).kind !== "kept");
const button = (): HTMLElement => query(".mlcw-title-button");
const input = (): HTMLInputElement => query(".mlcw-title-field") as HTMLInputElement;
const press = (key: string): boolean => input().dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));

describe("the title of a chat", () => {
  it.each([
    ["text", "Why?", "Why?"],
    ["markup, as text", "<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"],
    ["too much of it, cut", "x".repeat(5000), "x".repeat(200)],
  ])("is %s", (_, title, shown) => {
    open(title);
    expect(button().textContent).toBe(shown);
    expect(box.querySelector("img")).toBeNull();
  });

  it.each([[""], [undefined], [7], [{}]])("is not there for %j", (...[title]) => {
    open(title);
    expect(query(".mlcw-title").hidden).toBe(true);
  });

  it("is renamed by Enter and by leaving the box, and not by Escape or without a change", async () => {
    const model = open("Why?");
    button().click();
    expect(document.activeElement).toBe(input());
    input().value = "Mine";
    press("Escape");
    expect(input().hidden).toBe(true);
    expect(document.activeElement).toBe(button());
    button().click();
    expect(input().value).toBe("Why?");
    press("Enter");
    expect(intents(model)).toEqual([]);
    button().click();
    input().value = " Causes ";
    press("Enter");
    await vi.waitFor(() => { expect(intents(model)).toEqual([{ kind: "rename", title: "Causes" }]); });
    model.change("_chat", { rev: 2, messages: said, title: "Causes" });
    await frame();
    button().click();
    input().value = "";
    input().dispatchEvent(new Event("blur"));
    await vi.waitFor(() => { expect(intents(model).at(-1)).toEqual({ kind: "rename", title: "" }); });
  });

  it("stays as it is, with the reason below the box, when the kernel refuses it", async () => {
    const model = open("Why?");
    button().click();
    input().value = "x";
    press("Enter");
    await vi.waitFor(() => { expect(intents(model)).toHaveLength(1); });
    const { id } = model.sent.at(-1) as { id: string };
    model.receive({ type: "ack", intent: id, error: "title: too long." });
    await vi.waitFor(() => { expect(query(".mlcw-note").textContent).toBe("title: too long."); });
    expect(button().textContent).toBe("Why?");
  });
});
