import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import widget from "../src/index.ts";
import { parseTokens } from "../src/protocol.ts";
import { visibleToken } from "../src/views/tokens.ts";
import { FakeModel } from "./fakes.ts";

const ready = { rev: 1, state: "ready", model: "demo", device: "cpu", progress: null, error: null };
const HOSTILE = "<img src=x onerror=alert(1)>";
const user = { id: "u", role: "user", text: "Where?", status: "done" };
const reply = (tokens: number): object => ({ id: "a", role: "assistant", text: "In Paris.", status: "done", tokens });
const TOKENS = [
  ["In", 0.97, [["In", 0.97], ["At", 0.02]]],
  [" Paris", 0.4, [[" Rome", 0.5], [" Paris", 0.4]]],
  [HOSTILE, 0.001, [[".", 0.9]]],
];

let page: AbortController;
let box: HTMLElement;
let model: FakeModel;
beforeEach(() => {
  page = new AbortController();
  box = document.createElement("div");
  document.body.replaceChildren(box);
});
afterEach(() => { page.abort(); });

function open(tokens: number): void {
  model = new FakeModel({ _view: "chat", _engine: ready, _chat: { rev: 1, messages: [user, reply(tokens)] }, _live: {} });
  widget.initialize({ model, signal: page.signal });
  widget.render({ model, el: box, signal: page.signal });
}
const query = (selector: string): HTMLElement => {
  const found = box.querySelector<HTMLElement>(selector);
  if (!found) throw new Error(`nothing matches ${selector}`);
  return found;
};
const button = (): HTMLElement => query('.mlcw-assistant [aria-label="Token probabilities"]');
const listed = (): string[] => [...box.querySelectorAll(".mlcw-token-list li")].map((node) => node.textContent);
const press = (key: string): boolean =>
  query(".mlcw-tokens-text").dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));

describe("a reply's tokens", () => {
  it("are offered only if the kernel has them", () => {
    open(0);
    expect(button().hidden).toBe(true);
  });

  it("are asked for, shaded, and have their alternatives by pointer and keys", async () => {
    open(3);
    button().click();
    await vi.waitFor(() => { expect(model.sent).toMatchObject([{ intent: { kind: "tokens", reply: "a" } }]); });
    expect(button().getAttribute("aria-expanded")).toBe("true");
    model.receive({ type: "tokens", reply: "another", tokens: [["x", 1, []]] });
    model.receive({ type: "tokens", reply: "a", tokens: TOKENS });
    const spans = [...box.querySelectorAll<HTMLElement>(".mlcw-tokens-text > span")];
    expect(spans.map((node) => node.textContent)).toEqual(["In", " Paris", HOSTILE]);
    expect(spans.map((node) => node.style.getPropertyValue("--mlcw-doubt"))).toEqual(["0.03", "0.6", "1"]);
    expect(spans.map((node) => node.className)).toEqual(["", "mlcw-token-unlikely", "mlcw-token-unlikely"]);
    expect(box.querySelector("img")).toBeNull();
    expect(listed()[0]).toContain("0.10 %"); // the least likely one, which is not among the likeliest
    expect(listed()[1]).toBe(".90 %");
    press("ArrowLeft");
    expect(listed()).toEqual(["␣Rome50 %", "␣Paris40 %"]);
    expect(query(".mlcw-token-list [aria-current]").textContent).toBe("␣Paris40 %");
    spans[0]?.dispatchEvent(new Event("pointerover", { bubbles: true }));
    expect(listed()[0]).toBe("In97 %");
    press("ArrowLeft");
    expect(listed()[0]).toBe("In97 %");
    button().click();
    expect(box.querySelector(".mlcw-tokens")).toBeNull();
    expect(query(".mlcw-assistant .mlcw-body").hidden).toBe(false);
  });

  it("are read with care and shown so that white space is seen", () => {
    expect(parseTokens({ reply: "a", tokens: [3, ["x"], ["y", 7, "z"], ["z", 0.5, [null, ["q", 0.1]]]] })?.tokens).toEqual([
      { text: "x", probability: 0, top: [] },
      { text: "y", probability: 1, top: [] },
      { text: "z", probability: 0.5, top: [{ text: "q", probability: 0.1 }] },
    ]);
    expect(parseTokens({ tokens: [] })).toBeNull();
    expect(visibleToken(" a\n\t\u0001")).toBe("␣a↵⇥␀");
    expect(visibleToken("")).toBe("(end)");
  });
});
