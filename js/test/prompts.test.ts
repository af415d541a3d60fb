import { describe, expect, it, vi } from "vitest";

import { parseOptions } from "../src/protocol.ts";
import type { FakeModel } from "./fakes.ts";
import { box, frame, query, show } from "./page.ts";

const ready = { rev: 1, state: "ready", model: "demo", device: "cpu", progress: null, error: null };
const PINNED = { Short: "Be brief.", "<b>": "Be <i>bold</i>." };
const open = (options: object): FakeModel => {
  const model = show({ _view: "chat", _engine: ready, _chat: { rev: 1, messages: [] }, _live: {}, _options: options });
  query('[aria-label="Settings"]').click();
  return model;
};
const intents = (model: FakeModel): unknown[] =>
  (model.sent as { intent: { kind: string } }[]).map(({ intent }) => intent).filter(({ kind }) => kind === "set");
const select = (): HTMLSelectElement => query(".mlcw-prompts select") as HTMLSelectElement;
const button = (text: string): HTMLButtonElement => {
  const found = [...box.querySelectorAll<HTMLButtonElement>(".mlcw-prompts button")].find(({ textContent }) => textContent === text);
  if (!found) throw new Error(`no button ${text}`);
  return found;
};

describe("pinned system prompts", () => {
  it("are chosen by their names, which are text", async () => {
    const model = open({ system_prompts: PINNED });
    expect([...select().options].map(({ textContent }) => textContent)).toEqual(["Choose one", "Short", "<b>"]);
    expect(button("Pin this prompt").hidden).toBe(true);
    select().value = "<b>";
    select().dispatchEvent(new Event("change"));
    await vi.waitFor(() => { expect(intents(model)).toEqual([{ kind: "set", name: "system", value: "Be <i>bold</i>." }]); });
    model.change("_options", { system_prompts: PINNED, system: "Be brief." });
    await frame();
    expect(select().value).toBe("Short");
  });

  it("are pinned under a name, and a refusal is shown", async () => {
    const model = open({ system_prompts: PINNED, system: "You are a pirate who knows the sea." });
    button("Pin this prompt").click();
    const name = query('[aria-label="Name of the prompt"]') as HTMLInputElement;
    expect(name.value).toBe("You are a pirate");
    expect(document.activeElement).toBe(name);
    name.value = "Pirate";
    (query(".mlcw-prompt-name") as HTMLFormElement).requestSubmit();
    const wanted = { ...PINNED, Pirate: "You are a pirate who knows the sea." };
    await vi.waitFor(() => { expect(intents(model)).toEqual([{ kind: "set", name: "system_prompts", value: wanted }]); });
    const { id } = (model.sent as { id: string; intent: { kind: string } }[]).find(({ intent }) => intent.kind === "set") ?? { id: "" };
    model.receive({ type: "ack", intent: id, error: "system_prompts: too many." });
    await vi.waitFor(() => { expect(query(".mlcw-prompts [role=alert]").textContent).toBe("system_prompts: too many."); });
    name.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true, cancelable: true }));
    expect(query(".mlcw-prompt-name").hidden).toBe(true);
    expect(query(".mlcw-settings").hidden).toBe(false);
    expect(document.activeElement).toBe(button("Pin this prompt"));
  });

  it("are unpinned", async () => {
    const model = open({ system_prompts: PINNED, system: "Be brief." });
    expect(button("Pin this prompt").hidden).toBe(true);
    button("Unpin").click();
    await vi.waitFor(() => { expect(intents(model)).toEqual([{ kind: "set", name: "system_prompts", value: { "<b>": "Be <i>bold</i>." } }]); });
  });

  it("are not there where there is nothing to choose or pin", () => {
    open({});
    expect(query(".mlcw-prompts").hidden).toBe(true);
  });

  it.each([[null, 0], ["x", 0], [{ a: 1, b: "x" }, 1], [Object.fromEntries(Array.from({ length: 500 }, (_, i) => [`n${String(i)}`, "x"])), 50]])(
    "%# are read from any notebook", (value, length) => {
      expect(Object.keys(parseOptions({ system_prompts: value }).system_prompts)).toHaveLength(length);
    });
});
