import { afterEach, describe, expect, it, vi } from "vitest";

import widget from "../src/index.ts";
import { FakeModel } from "./fakes.ts";
import { box, frame, page, query, show } from "./page.ts";

const ready = { rev: 1, state: "ready", model: "demo", device: "cpu", progress: null, error: null };
const user = { id: "u", role: "user", text: "Hi", status: "done" };
const reply = (text: string, status: string): object => ({ id: "a", role: "assistant", text, status });

function open(traits: Record<string, unknown>): FakeModel {
  return show(traits);
}
const chat = (chatState: unknown, engine: unknown = ready): FakeModel =>
  open({ _view: "chat", _engine: engine, _chat: chatState, _live: {} });
const composer = (): HTMLTextAreaElement => query(".mlcw-composer textarea") as HTMLTextAreaElement;

describe("chat", () => {
  it("streams into the same text node", async () => {
    const model = chat({ rev: 1, messages: [user, reply("", "running")] });
    model.receive({ type: "delta", reply: "a", offset: 0, text: "Hello" });
    await frame();
    const node = query(".mlcw-assistant p").firstChild;
    model.receive({ type: "delta", reply: "a", offset: 5, text: ", you" });
    await frame();
    expect(query(".mlcw-assistant .mlcw-body").textContent).toBe("Hello, you");
    expect(query(".mlcw-assistant p").firstChild).toBe(node);
  });

  it("names a GPU and the memory of the model there", () => {
    const gpu = { name: "NVIDIA H200", memory_bytes: 150e9, free_bytes: 140e9, model_bytes: 5e9 };
    chat({ rev: 1, messages: [] }, { ...ready, device: "cuda:0", memory_used_bytes: 1e9, gpu });
    expect(box.textContent).toContain("NVIDIA H200 · 5.0 GB memory");
    const title = query('[title*="GPU memory"]').getAttribute("title");
    expect(title).toBe(
      "GPU memory: 5.0 GB for the model, 140 GB free of 150 GB\nMemory of the worker: 1.0 GB",
    );
  });

  it("offers an empty chat what the saved notebook has, until it has messages", async () => {
    const model = chat({ rev: 1, messages: [], saved: 4 });
    expect(query(".mlcw-saved").hidden).toBe(false);
    expect(query(".mlcw-saved").textContent).toContain("4 messages");
    query(".mlcw-saved button").click();
    await frame();
    expect(model.sent.at(-1)).toMatchObject({ intent: { kind: "take_up" } });
    model.change("_chat", { rev: 2, messages: [user, reply("Hello", "done")], saved: 0 });
    await frame();
    expect(query(".mlcw-saved").hidden).toBe(true);
  });

  it("shows markup as text", () => {
    const hostile = '<img src=x onerror="alert(1)"><script>alert(1)</script>';
    chat({ rev: 1, messages: [user, reply(hostile, "done")] });
    expect(query(".mlcw-assistant .mlcw-body").textContent).toBe(hostile);
    expect(box.querySelector("img, script")).toBeNull();
  });

  it("sends on Enter, not on Shift+Enter or while an input method is composing, and keeps the text until it is accepted", async () => {
    const model = chat({ rev: 1, messages: [] });
    const input = composer();
    const press = (init: KeyboardEventInit): boolean =>
      input.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", cancelable: true, bubbles: true, ...init }));
    input.value = "Hello";
    input.dispatchEvent(new Event("input"));
    press({ shiftKey: true });
    press({ isComposing: true });
    await vi.waitFor(() => { expect(model.sent).toEqual([]); });
    press({});
    await vi.waitFor(() => { expect(model.sent).toHaveLength(1); });
    const content = model.sent[0] as { id: string; intent: unknown };
    expect(content.intent).toEqual({ kind: "send", text: "Hello" });
    expect(input.value).toBe("Hello");
    input.value = "Hello and more";
    model.receive({ type: "ack", intent: content.id });
    await vi.waitFor(() => { expect(input.value).toBe(" and more"); });
  });

  it("keeps the text and says why when a message is refused", async () => {
    const model = chat({ rev: 1, messages: [] });
    const input = composer();
    input.value = "Hello";
    (query(".mlcw-composer") as HTMLFormElement).requestSubmit();
    await vi.waitFor(() => { expect(model.sent).toHaveLength(1); });
    model.receive({ type: "ack", intent: (model.sent[0] as { id: string }).id, error: "Terminated." });
    await vi.waitFor(() => { expect(query(".mlcw-note").textContent).toBe("Terminated."); });
    expect(input.value).toBe("Hello");
  });

  it("stops by the button and by Escape while an answer runs", async () => {
    const model = chat({ rev: 1, messages: [user, reply("On and on", "running")] });
    expect(query(".mlcw-stop").hidden).toBe(false);
    composer().dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
    await vi.waitFor(() => { expect(model.sent).toMatchObject([{ intent: { kind: "stop" } }]); });
    model.change("_chat", { rev: 2, messages: [user, reply("On and on", "stopped")] });
    await frame();
    expect(query(".mlcw-stop").hidden).toBe(true);
    expect(query(".mlcw-assistant .mlcw-facts").textContent).toBe("Stopped");
  });

  it("shows a failed reply with its reason and a way to try again", async () => {
    const failed = { ...reply("", "error"), error: { type: "EngineDeadError", message: "The worker died." } };
    const model = chat({ rev: 1, messages: [user, failed] });
    expect(query(".mlcw-assistant .mlcw-error-text").textContent).toBe("The worker died.");
    query(".mlcw-assistant .mlcw-problem button").click();
    await vi.waitFor(() => { expect(model.sent).toMatchObject([{ intent: { kind: "retry", reply: "a" } }]); });
  });

  it("asks for a snapshot when text stays missing", async () => {
    const model = chat({ rev: 1, messages: [user, reply("", "running")] });
    model.receive({ type: "delta", reply: "a", offset: 7, text: "late" });
    await vi.waitFor(() => { expect(model.sent).toMatchObject([{ intent: { kind: "resync" } }]); });
    model.change("_live", { reply: "a", text: "Before ", reasoning: "" });
    await frame();
    expect(query(".mlcw-assistant .mlcw-body").textContent).toBe("Before late");
  });

  it("shows one state in two views", async () => {
    const model = chat({ rev: 1, messages: [user, reply("", "running")] });
    const second = document.createElement("div");
    widget.render({ model, el: second, signal: page.signal });
    model.receive({ type: "delta", reply: "a", offset: 0, text: "Both" });
    await frame();
    for (const view of [box, second]) expect(view.querySelector(".mlcw-assistant .mlcw-body")?.textContent).toBe("Both");
  });

  it("asks for the results of the last reply's calls, unless they are being made", async () => {
    const calls = { tool_calls: [{ name: "add", arguments: "{}" }, { name: "now", arguments: "{}" }] };
    const snapshot = (rev: number, more: object): object =>
      ({ rev, messages: [user, { ...reply("", "done"), ...calls, ...more }] });
    const model = chat(snapshot(1, { calling: true }));
    expect(query(".mlcw-results-note").hidden).toBe(false);
    expect(query(".mlcw-results .mlcw-row").hidden).toBe(true);
    model.change("_chat", snapshot(2, {}));
    await frame();
    expect(query(".mlcw-results-note").hidden).toBe(true);
    model.change("_chat", snapshot(3, { calls_stopped: true }));
    await frame();
    expect(box.textContent).toContain("Its calls were stopped");
    const fields = [...box.querySelectorAll<HTMLTextAreaElement>(".mlcw-results textarea")];
    expect(fields.map((field) => field.labels[0]?.textContent)).toEqual(["Result of add (1 of 2)", "Result of now (2 of 2)"]);
    fields.forEach((field, index) => { field.value = String(index); });
    model.change("_chat", snapshot(4, {}));
    await frame();
    query(".mlcw-results [type=submit]").click();
    await vi.waitFor(() => {
      expect(model.sent).toMatchObject([{ intent: { kind: "results", reply: "a", results: ["0", "1"] } }]);
    });
    const result = { id: "r", role: "tool", name: "add", text: '{"sum":5}', status: "done" };
    model.change("_chat", { rev: 5, messages: [user, { ...reply("", "done"), ...calls }, result, { ...reply("Five", "done"), id: "b" }] });
    await frame();
    expect(box.querySelector(".mlcw-results")).toBeNull();
    expect(query(".mlcw-tool-result summary").textContent).toBe("Result of add");
    expect(query(".mlcw-tool-result code").textContent).toContain('"sum": 5');
  });

  it("says that a reply repeats itself, even while it is running", async () => {
    const model = chat({ rev: 1, messages: [user, { ...reply("Hi Hi Hi", "running"), repeats: true }] });
    expect(query(".mlcw-assistant .mlcw-facts").textContent).toContain("repeats itself");
    expect(query(".mlcw-assistant .mlcw-foot").hidden).toBe(false);
    model.change("_chat", { rev: 2, messages: [user, { ...reply("Hi Hi Hi", "stopped"), repeats: true }] });
    await frame();
    expect(query(".mlcw-assistant .mlcw-facts").textContent).toMatch(/^Stopped · It repeats itself/);
  });

  it("shows the model's default settings as hints", async () => {
    const model = chat({ rev: 1, messages: [] });
    const hint = (label: string): string =>
      [...box.querySelectorAll<HTMLInputElement>(".mlcw-settings input")].find((input) => input.labels?.[0]?.textContent === label)?.placeholder ?? "";
    expect(hint("Repetition penalty")).toBe("Default");
    expect(hint("Max tokens")).toBe("4096");
    model.change("_engine", { ...ready, rev: 2, defaults: { repetition_penalty: 1.1, top_k: 40, min_p: 0.05, max_tokens: 500, temperature: null, top_p: "x" } });
    await frame();
    expect([hint("Repetition penalty"), hint("Max tokens"), hint("Temperature"), hint("Top p")]).toEqual(["1.1", "500", "Default", "Default"]);
    expect([hint("Top k"), hint("Min p")]).toEqual(["40", "0.05"]);
  });

  it.each([["done", "length", "Cut off"], ["stopped", "", "Stopped"], ["error", "", ""], ["done", "stop", ""]])(
    "says that the calls of a reply that ended early were not made, and asks for no results: %s, %s", (status, finish, text) => {
      const tool_calls = [{ name: "add", arguments: '{"a' }];
      chat({ rev: 1, messages: [user, { ...reply("", status), finish, tool_calls }] });
      expect(query(".mlcw-assistant .mlcw-facts").textContent).toContain(text);
      expect(query(".mlcw-assistant .mlcw-facts").textContent).toContain("were not made");
      expect(box.querySelector(".mlcw-results")).toBeNull();
    });

  it.each([[true, "the reply continued"], [false, "may be worded differently"]])("says that a reply was resumed: %s", (resumed, text) => {
    chat({ rev: 1, messages: [user, { ...reply("Hi", "running"), resumed }] });
    expect(query(".mlcw-assistant .mlcw-facts").textContent).toContain(text);
    expect(query(".mlcw-assistant .mlcw-foot").hidden).toBe(false);
  });

  it("leaves nothing behind when it is closed", () => {
    const model = chat({ rev: 1, messages: [] });
    expect(model.listeners()).toBeGreaterThan(0);
    page.abort();
    expect(model.listeners()).toBe(0);
  });

  it("says that a saved chat has no kernel", async () => {
    const model = new FakeModel({ _view: "chat", _engine: ready, _chat: { rev: 1, messages: [user] }, _live: {} });
    model.widget_manager = { get_model: () => Promise.resolve({ comm_live: false }) };
    widget.initialize({ model, signal: page.signal });
    widget.render({ model, el: box, signal: page.signal });
    await vi.waitFor(() => { expect(composer().disabled).toBe(true); });
    expect(query(".mlcw-state").textContent).toBe("No kernel");
    expect(query(".mlcw-user .mlcw-body").textContent).toBe("Hi");
  });

  it.each([
    ["is shut down", null],
    ["has died", { id: "k", status: "dead" }],
    ["is another one", { id: "l", status: "idle" }],
  ])("says that there is no kernel any more when it %s", async (_, next) => {
    const slots = new Set<() => void>();
    const changed = {
      connect: (slot: () => void): unknown => slots.add(slot),
      disconnect: (slot: () => void): unknown => slots.delete(slot),
    };
    let kernel: object | null = { id: "k", status: "idle" };
    const sessionContext = { get session() { return kernel && { kernel }; }, kernelChanged: changed, statusChanged: changed };
    const model = new FakeModel({ _view: "chat", _engine: ready, _chat: { rev: 1, messages: [user] }, _live: {} });
    model.widget_manager = { context: { sessionContext }, get_model: () => Promise.resolve({ comm_live: true }) };
    widget.initialize({ model, signal: page.signal });
    widget.render({ model, el: box, signal: page.signal });
    await vi.waitFor(() => { expect(slots.size).toBe(1); });
    await frame();
    expect(composer().disabled).toBe(false);
    kernel = next;
    for (const slot of slots) slot();
    await frame();
    expect(composer().disabled).toBe(true);
    expect(query(".mlcw-state").textContent).toBe("No kernel");
    page.abort();
    expect(slots.size).toBe(0);
  });
});

describe.each(["chat", "load"])("a hang, in the view %s", (view) => {
  const hung = { ...ready, rev: 2, hang: { part: "worker", seconds: 40.2 } };
  afterEach(() => { vi.useRealTimers(); });

  it("is announced once, counts seconds, and disappears when it is over", async () => {
    vi.useFakeTimers();
    const model = open({ _view: view, _engine: ready, _chat: {}, _live: {} });
    const line = query(".mlcw-hang-line");
    expect(line.hidden).toBe(true);
    model.change("_engine", hung);
    await vi.advanceTimersByTimeAsync(50);
    expect(line.hidden).toBe(false);
    expect(query(".mlcw-hang-text").textContent).toBe("The worker has not answered for 40 s; it may be hung.");
    const said = query(".mlcw-hang [role=status]");
    const saidFirst = said.firstChild;
    await vi.advanceTimersByTimeAsync(3000);
    expect(query(".mlcw-hang-text").textContent).toContain("for 43 s");
    expect(said.firstChild).toBe(saidFirst);
    model.change("_engine", { ...hung, rev: 3, hang: { part: "engine", seconds: 70 } });
    await vi.advanceTimersByTimeAsync(50);
    expect(query(".mlcw-hang-text").textContent).toBe("The engine has made no progress for 1 min 10 s; it may be hung.");
    model.change("_engine", { ...ready, rev: 4 });
    await vi.advanceTimersByTimeAsync(50);
    expect(line.hidden).toBe(true);
    expect(said.textContent).toBe("");
  });

  it("offers to restart the worker, and says why that was refused", async () => {
    const model = open({ _view: view, _engine: hung, _chat: {}, _live: {} });
    const button = query(".mlcw-hang button") as HTMLButtonElement;
    button.click();
    await vi.waitFor(() => { expect(model.sent).toMatchObject([{ intent: { kind: "restart" } }]); });
    expect(button.disabled).toBe(true);
    model.receive({ type: "ack", intent: (model.sent[0] as { id: string }).id, error: "Terminated." });
    await vi.waitFor(() => { expect(query(".mlcw-hang .mlcw-error-text").textContent).toBe("Terminated."); });
    expect(button.disabled).toBe(false);
  });
});

describe("load panel", () => {
  const load = (engine: unknown): FakeModel => open({ _view: "load", _engine: engine });
  const progress = { progress: 0.42, text: "", phase: "download", elapsed: 3, bytes_done: 1e6, bytes_total: 4e6, bytes_per_s: 2e6, eta_s: 1.5 };

  it("shows phase, share, bytes, speed and time left, then one quiet line", async () => {
    const model = load({ ...ready, state: "loading", progress });
    const bar = query('[role="progressbar"]');
    expect(bar.getAttribute("aria-valuenow")).toBe("42");
    expect(query(".mlcw-load-phase").textContent).toBe("Downloading");
    expect(query(".mlcw-load-facts").textContent).toBe("1.0 of 4.0 MB · 2.0 MB/s · 1.5 s left");
    expect(query(".mlcw-load-clock").textContent).toBe("3 s");
    model.change("_engine", { ...ready, rev: 2, progress: { ...progress, progress: 1 } });
    await frame();
    expect(query(".mlcw-load-title").textContent).toBe("demo is ready");
    expect(query(".mlcw-load-facts").textContent).toBe("loaded in 3.0 s · cpu");
    expect(bar.hidden).toBe(true);
  });

  it("cancels", async () => {
    const model = load({ ...ready, state: "loading", progress });
    query(".mlcw-load .mlcw-link").click();
    await vi.waitFor(() => { expect(model.sent).toMatchObject([{ intent: { kind: "cancel_load" } }]); });
  });

  it("shows the error with its remedy, as text", () => {
    const message = "params_shard_0.bin is <b>truncated</b>.\nDownload it again.";
    load({ ...ready, state: "idle", error: { type: "ModelFormatError", message } });
    expect(query(".mlcw-load-title").textContent).toBe("Could not load demo");
    expect(query(".mlcw-error-text").textContent).toBe(message);
    expect(box.querySelector("b")).toBeNull();
  });

  it("says what a loaded model cannot do, in a chat until it is dismissed", async () => {
    const warning = "base has no <b>chat</b> template.";
    const loaded = { ...ready, progress: { ...progress, progress: 1, warning } };
    const model = load({ ...ready, state: "loading", progress });
    expect(query(".mlcw-load-warning").hidden).toBe(true);
    model.change("_engine", { ...loaded, rev: 2 });
    await frame();
    expect(query(".mlcw-load-warning").textContent).toBe(warning);
    expect(query(".mlcw-load-warning").hidden).toBe(false);
    box.replaceChildren();
    chat({ rev: 1, messages: [] }, loaded);
    expect(query(".mlcw-load").hidden).toBe(false);
    [...box.querySelectorAll<HTMLElement>(".mlcw-load button")].find((one) => one.textContent === "Dismiss")?.click();
    expect(query(".mlcw-load").hidden).toBe(true);
  });

  it("offers in a chat to load a model again that was unloaded", async () => {
    const model = chat({ rev: 1, messages: [] }, { ...ready, state: "idle", unloaded: true });
    expect(query(".mlcw-load-title").textContent).toBe("No model is loaded");
    const again = query(".mlcw-load > .mlcw-button");
    expect(again.textContent).toBe("Load demo");
    again.click();
    await vi.waitFor(() => { expect(model.sent).toMatchObject([{ intent: { kind: "load", model: null } }]); });
  });

  it("shows no percentage before the first report", () => {
    load({ ...ready, state: "starting" });
    expect(query('[role="progressbar"]').hasAttribute("aria-valuenow")).toBe(false);
    expect(query(".mlcw-load-phase").textContent).toBe("Starting the worker");
  });
});

describe("settings", () => {
  it("that were changed here can be undone, and probabilities are switched on", async () => {
    const model = open({
      _view: "chat", _engine: ready, _chat: { rev: 1, messages: [] }, _live: {}, _options: { changed: [], logprobs: null },
    });
    query('[aria-label="Settings"]').click();
    const kept = query(".mlcw-kept");
    const probabilities = query('.mlcw-settings input[type="checkbox"]') as HTMLInputElement;
    expect(kept.hidden).toBe(true);
    expect(probabilities.labels?.[0]?.textContent).toBe("Token probabilities");
    probabilities.click();
    await vi.waitFor(() => {
      const intent = { kind: "set", name: "logprobs", value: true };
      expect(model.sent).toContainEqual(expect.objectContaining({ intent }));
    });
    model.change("_options", { changed: ["logprobs"], logprobs: true });
    await frame();
    expect(kept.hidden).toBe(false);
    expect(probabilities.checked).toBe(true);
    query(".mlcw-kept button").click();
    await vi.waitFor(() => { expect(model.sent).toContainEqual(expect.objectContaining({ intent: { kind: "reset" } })); });
  });
});
