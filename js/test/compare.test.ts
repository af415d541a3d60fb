import { beforeEach, describe, expect, it, vi } from "vitest";

import widget from "../src/index.ts";
import { FakeModel } from "./fakes.ts";
import { box, frame, page, query } from "./page.ts";

const ready = { rev: 1, state: "ready", model: "demo", device: "cpu", progress: null, error: null };
const said = (reply: string, status = "done"): object[] => [
  { id: "u", role: "user", text: "Why?", status: "done" },
  { id: "a", role: "assistant", text: reply, status },
];
interface Sent { readonly id: string; readonly intent: { readonly kind: string } }

let chats: FakeModel[];
let compare: FakeModel;
beforeEach(async () => {
  const chat = (id: string, options: object, engine: object = ready): FakeModel =>
    new FakeModel({ _comm_id: id, _view: "chat", _engine: engine, _chat: { rev: 1, messages: [] }, _live: {}, _options: options });
  chats = [
    chat("one", { temperature: 0, system: "Be brief." }),
    chat("two", { temperature: 1.5, logprobs: true, system: "Be brief." }, { ...ready, model: "tiny" }),
  ];
  compare = new FakeModel({ _comm_id: "c", _view: "compare", _chats: ["IPY_MODEL_one", "IPY_MODEL_two"], _chosen: { chat: null } });
  const all = new Map([["one", chats[0]], ["two", chats[1]]]);
  compare.widget_manager = { get_model: (id: string) => Promise.resolve(all.get(id)) };
  widget.initialize({ model: compare, signal: page.signal });
  widget.render({ model: compare, el: box, signal: page.signal });
  await vi.waitFor(() => { expect(columns()).toHaveLength(2); });
});

const columns = (): HTMLElement[] => [...box.querySelectorAll<HTMLElement>(".mlcw-column")];
const inside = (index: number, selector: string): HTMLElement => {
  const found = columns()[index]?.querySelector<HTMLElement>(selector);
  if (!found) throw new Error(`nothing matches ${selector}`);
  return found;
};
const button = (index: number, text: string): HTMLButtonElement => {
  const found = [...(columns()[index]?.querySelectorAll("button") ?? [])].find(({ textContent }) => textContent === text);
  if (!found) throw new Error(`no button ${text}`);
  return found;
};
const sent = (index: number): Sent[] =>
  (chats[index]?.sent as Sent[]).filter(({ intent }) => intent.kind === "send" || intent.kind === "stop");
const answer = (index: number, error: string | null = null): void => {
  chats[index]?.receive({ type: "ack", intent: sent(index).at(-1)?.id, error });
};
const write = (text: string): HTMLTextAreaElement => {
  const input = query("textarea.mlcw-input") as HTMLTextAreaElement;
  input.value = text;
  input.dispatchEvent(new Event("input"));
  input.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true }));
  return input;
};

describe("two chats side by side", () => {
  it("have one box, whose message goes to both, and say in what they differ", async () => {
    expect(box.querySelectorAll(".mlcw-composer")).toHaveLength(1);
    expect(inside(0, ".mlcw-column-label").textContent).toBe("Temperature: 0 · Token probabilities: default");
    expect(inside(1, ".mlcw-column-label").textContent).toBe("Temperature: 1.5 · Token probabilities: on");
    const input = write("Why?");
    expect(input.placeholder).toBe("Message both models");
    await vi.waitFor(() => { expect([sent(0), sent(1)].map(({ length }) => length)).toEqual([1, 1]); });
    expect(sent(1)[0]?.intent).toEqual({ kind: "send", text: "Why?" });
    answer(0);
    await frame();
    expect(input.value).toBe("Why?"); // the other one may refuse it
    answer(1);
    await vi.waitFor(() => { expect(input.value).toBe(""); });
  });

  it("show why one refused a message that the other took, and keep it if both refuse", async () => {
    const input = write("Why?");
    await vi.waitFor(() => { expect([sent(0), sent(1)].map(({ length }) => length)).toEqual([1, 1]); });
    answer(0, "Terminated.");
    answer(1);
    await vi.waitFor(() => { expect(input.value).toBe(""); });
    expect(inside(0, ".mlcw-column > .mlcw-note").textContent).toBe("Terminated.");
    expect(inside(1, ".mlcw-column > .mlcw-note").hidden).toBe(true);
    write("Again");
    await vi.waitFor(() => { expect([sent(0), sent(1)].map(({ length }) => length)).toEqual([2, 2]); });
    answer(0, "Terminated.");
    answer(1, "Terminated, too.");
    await vi.waitFor(() => { expect(box.querySelector(".mlcw-composer .mlcw-note")?.textContent).toBe("Terminated."); });
    expect(input.value).toBe("Again");
  });

  it("stop one by one, or both by Escape", async () => {
    chats.forEach((chat) => { chat.change("_chat", { rev: 2, messages: said("On", "running") }); });
    await frame();
    button(1, "Stop").click();
    await vi.waitFor(() => { expect([sent(0), sent(1)].map(({ length }) => length)).toEqual([0, 1]); });
    answer(1);
    chats[1]?.change("_chat", { rev: 3, messages: said("On", "stopped") });
    await frame();
    expect(button(0, "Stop").hidden).toBe(false);
    expect(button(1, "Stop").hidden).toBe(true);
    box.querySelector("textarea.mlcw-input")?.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
    await vi.waitFor(() => { expect(sent(0)).toMatchObject([{ intent: { kind: "stop" } }]); });
  });

  it("go on with the one that is chosen, until both are shown again", async () => {
    chats.forEach((chat) => { chat.change("_chat", { rev: 2, messages: said("Because", "done") }); });
    await frame();
    button(1, "Continue with B").click();
    await vi.waitFor(() => { expect(compare.sent).toMatchObject([{ intent: { kind: "choose", chat: 1 } }]); });
    compare.change("_chosen", { chat: 1 });
    await frame();
    expect(columns().map(({ hidden }) => hidden)).toEqual([true, false]);
    const input = write("And?");
    expect(input.placeholder).toBe("Message tiny");
    await vi.waitFor(() => { expect(sent(1)).toHaveLength(1); });
    expect(sent(0)).toEqual([]);
    button(1, "Show both again").click();
    await vi.waitFor(() => { expect(compare.sent.at(-1)).toMatchObject({ intent: { kind: "choose", chat: null } }); });
    compare.change("_chosen", { chat: 7 }); // anybody may have written it
    await frame();
    expect(columns().map(({ hidden }) => hidden)).toEqual([false, false]);
  });

  it("say that they need their kernel where it is gone", async () => {
    const el = document.createElement("div");
    compare.widget_manager = { get_model: () => Promise.reject(new Error("not found")) };
    widget.render({ model: compare, el, signal: page.signal });
    await vi.waitFor(() => { expect(el.textContent).toContain("need their kernel"); });
  });
});
