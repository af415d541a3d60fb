import { beforeEach, describe, expect, it, vi } from "vitest";

import widget from "../src/index.ts";
import { FakeModel } from "./fakes.ts";
import { box, frame, page, query } from "./page.ts";

const ready = { rev: 1, state: "ready", model: "demo", device: "cpu", progress: null, error: null };
const said = [
  { id: "u", role: "user", text: "Why?", status: "done" },
  { id: "a", role: "assistant", text: "Because.", status: "done" },
];
const traits = (id: string, messages: readonly object[] = said, options: object = {}): Record<string, unknown> => ({
  _comm_id: id, _view: "chat", _engine: ready, _chat: { rev: 1, messages }, _live: {},
  _options: { temperature: 0.5, models: [{ name: "demo" }, { name: "tiny" }], ...options },
});
interface Sent { readonly id: string; readonly intent: { readonly kind: string } }

let chat: FakeModel;
const open = async (messages: readonly object[] = said, offered = true): Promise<void> => {
  chat = new FakeModel({ ...traits("c", messages), _comparing: { offered, chats: [] } });
  const sides = new Map(["one", "two"].map((id) => [id, new FakeModel(traits(id, said, { temperature: id === "one" ? 0.5 : 1 }))]));
  chat.widget_manager = { get_model: (id: string) => sides.has(id) ? Promise.resolve(sides.get(id)) : Promise.reject(new Error("none")) };
  widget.initialize({ model: chat, signal: page.signal });
  widget.render({ model: chat, el: box, signal: page.signal });
  await frame();
};
const button = (name: string): HTMLButtonElement => {
  const found = [...box.querySelectorAll("button")].find((item) => (item.getAttribute("aria-label") ?? item.textContent) === name);
  if (!found) throw new Error(`no button ${name}`);
  return found;
};
const field = (selector: string): HTMLInputElement => query(`.mlcw-compare-form ${selector}`) as HTMLInputElement;
const submit = (): void => { query(".mlcw-compare-form").dispatchEvent(new Event("submit", { cancelable: true })); };
const intents = (): unknown[] => (chat.sent as Sent[]).map(({ intent }) => intent).filter(({ kind }) => ["compare", "keep", "leave"].includes(kind));
const acknowledge = (error: string | null = null): void => { chat.receive({ type: "ack", intent: (chat.sent as Sent[]).at(-1)?.id, error }); };

beforeEach(() => { box.replaceChildren(); });

describe("a comparison from within a chat", () => {
  it("sends what differs, and keeps the form open with the reason if it is refused", async () => {
    await open();
    button("Compare…").click();
    expect([...field("select").querySelectorAll("option")].map(({ value }) => value)).toEqual(["", "tiny"]);
    field("input").value = "9";
    submit();
    await vi.waitFor(() => { expect(intents()).toEqual([{ kind: "compare", model: null, settings: { temperature: 9 } }]); });
    acknowledge("temperature = 9: must be at most 2.");
    await vi.waitFor(() => { expect(query(".mlcw-compare-form [role=alert]").textContent).toContain("temperature = 9"); });
    field("input").value = "0.5";
    field("select").value = "tiny";
    const input = query("textarea.mlcw-input") as HTMLTextAreaElement;
    input.value = "And?";
    input.dispatchEvent(new Event("input"));
    expect(query(".mlcw-compare-foot").textContent).toContain("The message in the box");
    submit();
    await vi.waitFor(() => { expect(intents().at(-1)).toEqual({ kind: "compare", model: "tiny", settings: {}, text: "And?", attachments: [] }); });
    expect(input.value).toBe("And?");
    acknowledge();
    await vi.waitFor(() => { expect(box.querySelector(".mlcw-compare-form")).toBeNull(); });
    expect(input.value).toBe("");
  });

  it("is not offered without a kernel of Jupyter's, and needs a message", async () => {
    await open(said, false);
    expect(button("Compare…").hidden).toBe(true);
    box.replaceChildren();
    await open([]);
    button("Compare…").click();
    expect(button("Compare").disabled).toBe(true);
  });

  it("stands in place of the chat until one answer is kept", async () => {
    await open();
    chat.change("_comparing", { offered: true, chats: ["IPY_MODEL_one", "two"] });
    await vi.waitFor(() => { expect(box.querySelectorAll(".mlcw-column")).toHaveLength(2); });
    expect(query(".mlcw-chat").hidden).toBe(true);
    button("Keep B").click();
    button("Back to the chat, without these answers").click();
    await vi.waitFor(() => { expect(intents()).toEqual([{ kind: "keep", chat: 1 }, { kind: "leave" }]); });
    chat.change("_comparing", { offered: true, chats: [] });
    await vi.waitFor(() => { expect(query(".mlcw-chat").hidden).toBe(false); });
    expect(box.querySelector(".mlcw-compare")).toBeNull();
    chat.change("_comparing", { offered: true, chats: ["gone", "two"] });
    await frame();
    expect(query(".mlcw-chat").hidden).toBe(false);
  });
});
