import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import widget from "../src/index.ts";
import { searchModels } from "../src/views/picker.ts";
import { parseOptions } from "../src/protocol.ts";
import { FakeModel } from "./fakes.ts";

const MODELS = [
  { name: "demo", place: "built in" },
  { name: "smollm2-135m", place: "download", nbytes: 98e6, memory_bytes: 380e6, licence: "Apache-2.0", fits: true },
  { name: "HF://user/big-70b.gguf", place: "here", nbytes: 40e9, fits: false },
  { name: "qwen3:0.6b", place: "Ollama", nbytes: 500e6, fits: true },
];
const ready = { rev: 1, state: "ready", model: "demo", device: "cpu", progress: null, error: null };

let page: AbortController;
let box: HTMLElement;
let model: FakeModel;
beforeEach(() => {
  page = new AbortController();
  box = document.createElement("div");
  document.body.replaceChildren(box);
  model = new FakeModel({
    _view: "chat", _engine: ready, _chat: { rev: 1, messages: [] }, _live: {}, _options: { models: MODELS },
  });
  widget.initialize({ model, signal: page.signal });
  widget.render({ model, el: box, signal: page.signal });
});
afterEach(() => { page.abort(); });

const frame = (): Promise<void> => new Promise((resolve) => { requestAnimationFrame(() => { resolve(); }); });
const input = (): HTMLInputElement => {
  const found = box.querySelector<HTMLInputElement>("[role=combobox]");
  if (!found) throw new Error("there is no picker");
  return found;
};
const type = (text: string): void => {
  input().value = text;
  input().dispatchEvent(new Event("input", { bubbles: true }));
};
const key = (name: string): void => {
  input().dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
};
const options = (): string[] => [...box.querySelectorAll("[role=option]")].map((option) => option.textContent);
const sent = (): unknown[] => model.sent.map((message) => (message as { intent: unknown }).intent);
const error = (): string => box.querySelector(".mlcw-picker .mlcw-field-error:not([hidden])")?.textContent ?? "";

describe("the model picker", () => {
  it("reads models with and without their facts", () => {
    const read = parseOptions({ models: ["old", { name: 3 }, null, ...MODELS] }).models;
    expect(read.map((one) => one.name)).toEqual(["old", ...MODELS.map((one) => one.name)]);
    expect(parseOptions({ models: "demo" }).models).toEqual([]);
  });

  it.each([
    ["", 4],
    ["SMOL", 1],
    ["apache", 1],
    ["disk 70b", 1],
    ["ollama", 1],
    ["too large", 1],
    ["nothing like it", 0],
  ])("finds by %j %i models", (query, count) => {
    expect(searchModels(parseOptions({ models: MODELS }).models, query)).toHaveLength(count);
  });

  it("says what each model is, and whether it fits", () => {
    input().click();
    expect(options()).toEqual([
      "demobuilt in",
      "smollm2-135mto download · 98.0 MB · 380 MB memory · Apache-2.0",
      "HF://user/big-70b.ggufon this disk · 40.0 GB · too large for this machine",
      "qwen3:0.6bof Ollama · 500 MB",
    ]);
    expect(input().getAttribute("aria-expanded")).toBe("true");
  });

  it("is driven by the keyboard", async () => {
    type("smol");
    key("ArrowDown");
    const active = input().getAttribute("aria-activedescendant");
    expect(box.querySelector("[aria-selected=true]")?.id).toBe(active);
    key("Enter");
    await vi.waitFor(() => { expect(sent()).toEqual([{ kind: "load", model: "smollm2-135m" }]); });
    expect(input().getAttribute("aria-expanded")).toBe("false");
  });

  it.each(["HF://user/repo/file.gguf", "/models/tiny", "PYPI://package", "./a file.gguf"])("loads what is typed: %s", async (name) => {
    type(`  ${name} `);
    key("Enter");
    await vi.waitFor(() => { expect(sent()).toEqual([{ kind: "load", model: name }]); });
  });

  it("keeps what was typed when it cannot be loaded, and says why", async () => {
    type("smolm2-135m");
    key("Enter");
    model.change("_engine", { ...ready, rev: 2, state: "loading", model: "smolm2-135m" });
    await frame();
    const failure = { type: "ModelNotFoundError", message: "Did you mean 'smollm2-135m'?" };
    model.change("_engine", { ...ready, rev: 3, failed: { model: "smolm2-135m", error: failure } });
    await frame();
    expect(input().value).toBe("smolm2-135m");
    expect(error()).toContain("Did you mean 'smollm2-135m'?");
    expect(input().getAttribute("aria-invalid")).toBe("true");
    expect(box.querySelector(".mlcw-name")?.textContent).toBe("demo");
    const notice = box.querySelector<HTMLElement>(".mlcw-load");
    expect(notice?.textContent).toContain("demo stays loaded.");
    expect(notice?.textContent).toContain("Could not load smolm2-135m");
    [...(notice?.querySelectorAll("button") ?? [])].find((one) => one.textContent === "Dismiss")?.click();
    model.change("_engine", { ...ready, rev: 4, failed: { model: "smolm2-135m", error: failure } });
    await frame();
    expect(notice?.hidden).toBe(true);
    type("smollm2-135m");
    key("Enter");
    model.change("_engine", { ...ready, rev: 5, model: "smollm2-135m" });
    await frame();
    expect(error()).toBe("");
    model.change("_engine", { ...ready, rev: 6, model: "demo" });
    await frame();
    expect(input().value).toBe("demo");
  });
});
