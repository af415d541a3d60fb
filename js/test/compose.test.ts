import { describe, expect, it, vi } from "vitest";

import { attachmentOfPaste, checkTogether, MOST_CHARACTERS, readFile } from "../src/attachments.ts";
import { parseChat, parseNotebook, type Variable } from "../src/protocol.ts";
import { quotation } from "../src/views/quote.ts";
import { suggestionsFor } from "../src/views/suggestions.ts";
import { searchVariables } from "../src/views/variables.ts";
import { FakeModel } from "./fakes.ts";
import { box, frame, query, show } from "./page.ts";

const ready = { rev: 1, state: "ready", model: "demo", device: "cpu", progress: null, error: null };
const HOSTILE = "<img src=x onerror=alert(1)>";
const NAMES = [
  { name: "df", kind: "frame", type: "DataFrame", shape: [1200, 3] },
  { name: "settings", kind: "", type: "dict", shape: null },
  { name: "pdf", kind: "", type: "bytes", shape: null },
  { name: "last_error", kind: "error", type: "KeyError", shape: null },
];

function open(messages: readonly object[] = []): FakeModel {
  return show({ _view: "chat", _engine: ready, _chat: { rev: 1, messages }, _live: {} });
}
const input = (): HTMLTextAreaElement => query(".mlcw-composer textarea") as HTMLTextAreaElement;
const type = (text: string): void => {
  input().focus();
  input().value = text;
  input().setSelectionRange(text.length, text.length);
  input().dispatchEvent(new Event("input"));
};
const press = (key: string): boolean =>
  input().dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true, bubbles: true }));
const sent = (model: FakeModel, kind: string): { id: string; intent: object }[] =>
  (model.sent as { id: string; intent: { kind: string } }[]).filter(({ intent }) => intent.kind === kind);
const options = (): string[] =>
  query(".mlcw-variables").hidden ? [] : [...box.querySelectorAll(".mlcw-variables .mlcw-model-name")].map((node) => node.textContent);
const chips = (): string[] => [...box.querySelectorAll(".mlcw-chip .mlcw-chip-name")].map((node) => node.textContent);

function paste(text: string, { html = "", files = [] as File[] } = {}): Event {
  const event = new Event("paste", { cancelable: true, bubbles: true });
  const getData = (kind: string): string => ({ "text/html": html, "text/plain": text })[kind] ?? "";
  Object.defineProperty(event, "clipboardData", { value: { getData, files } });
  input().dispatchEvent(event);
  return event;
}

describe("variables in the composer", () => {
  it("are asked for at a brace, and taken by keys or a click", async () => {
    const model = open();
    type("Describe {d");
    await vi.waitFor(() => { expect(sent(model, "look")).toHaveLength(1); });
    model.receive({ type: "notebook", names: NAMES });
    await frame();
    expect(options()).toEqual(["df", "pdf"]);
    expect(input().getAttribute("aria-activedescendant")).toBe(query("[role=option]").id);
    press("ArrowDown");
    press("ArrowDown");
    expect(press("Enter")).toBe(false);
    expect(input().value).toBe("Describe {df}");
    expect(sent(model, "send")).toEqual([]);
    expect(options()).toEqual([]);
    type("{set");
    query("[role=option]").click();
    expect(input().value).toBe("{settings}");
  });

  it("stay away from LaTeX, f-strings and JSON, and Escape closes the list alone", async () => {
    const model = open([{ id: "a", role: "assistant", text: "On", status: "running" }]);
    model.receive({ type: "notebook", names: NAMES });
    await frame();
    for (const text of ["\\frac{d", "x_{d", "f{d", "${d", "{{d", '{"d', "{df}"]) {
      type(text);
      expect([text, options()]).toEqual([text, []]);
    }
    type("({d");
    expect(options()).toHaveLength(2);
    press("Escape");
    expect(options()).toEqual([]);
    expect(sent(model, "stop")).toEqual([]);
  });

  it("begin before those that contain what was typed", () => {
    const found = searchVariables(parseNotebook({ names: NAMES }), "DF").map(({ name }) => name);
    expect(found).toEqual(["df", "pdf"]);
    expect(parseNotebook({ names: [null, 3, { name: "" }, { name: "a", kind: HOSTILE, shape: ["x"] }] })).toEqual([
      { name: "a", kind: "", type: "", shape: null },
    ]);
  });
});

describe("attachments", () => {
  const file = (text: string | Uint8Array<ArrayBuffer>, name: string, kind = "text/plain"): File => new File([text], name, { type: kind });

  it("go with the message, and stay with the text if it is refused", async () => {
    const model = open();
    type("What failed?");
    expect(paste("Traceback (most recent call last)\n  x\nKeyError: 'a'").defaultPrevented).toBe(true);
    paste("", { files: [file(HOSTILE, `${HOSTILE}.csv`)] });
    await vi.waitFor(() => { expect(chips()).toEqual(["Pasted traceback", `${HOSTILE}.csv`]); });
    expect(box.querySelector("img")).toBeNull();
    press("Enter");
    await vi.waitFor(() => { expect(sent(model, "send")).toHaveLength(1); });
    const [first] = sent(model, "send");
    expect(first?.intent).toMatchObject({
      text: "What failed?", attachments: [{ name: "Pasted traceback" }, { text: HOSTILE }],
    });
    model.receive({ type: "ack", intent: first?.id, error: "No." });
    await vi.waitFor(() => { expect(query(".mlcw-note").textContent).toBe("No."); });
    expect(chips()).toHaveLength(2);
    query('[aria-label^="Remove Pasted"]').click();
    press("Enter");
    await vi.waitFor(() => { expect(sent(model, "send")).toHaveLength(2); });
    model.receive({ type: "ack", intent: sent(model, "send")[1]?.id });
    await vi.waitFor(() => { expect(chips()).toEqual([]); });
    expect(input().value).toBe("");
  });

  it("can be sent alone, and put into the message instead", async () => {
    const model = open();
    paste("line\n".repeat(20));
    expect(query(".mlcw-send").hasAttribute("disabled")).toBe(false);
    query('[aria-label^="Put the text"]').click();
    expect(chips()).toEqual([]);
    // As a code block, whose braces are not the notebook's variables.
    expect(input().value.split("\n")).toEqual(["```", ...Array<string>(20).fill("line"), "```"]);
    type("");
    paste("{password} ```\n".repeat(20));
    query('[aria-label^="Put the text"]').click();
    expect(input().value).toMatch(/^````\n[^]*\n````$/);
    type("");
    paste("word ".repeat(500));
    press("Enter");
    await vi.waitFor(() => { expect(sent(model, "send")).toMatchObject([{ intent: { text: "" } }]); });
  });

  it("leave short texts to be typed, and know tables and tracebacks", () => {
    expect(attachmentOfPaste("Two\nlines", "")).toBeNull();
    expect(attachmentOfPaste("a\tb\nc\td", "<p>")).toBeNull();
    expect(attachmentOfPaste("a\tb\nc\td", "<Table border=1>")?.name).toBe("Pasted table");
    expect(attachmentOfPaste("\u001b[31mKeyError\u001b[0m Traceback (most recent call last)", "")?.text)
      .toBe("KeyError Traceback (most recent call last)");
    expect(attachmentOfPaste("x".repeat(3000), "")?.name).toBe("Pasted text");
  });

  it.each([
    ["an image", file("x", "a.png", "image/png"), "demo cannot see images"],
    ["a picture without a type", file(new Uint8Array([0x89, 0x50, 0, 1]), "b"), "only text files"],
    ["a program", file(new Uint8Array(64).fill(3), "c.bin"), "only text files"],
    ["an empty file", file(" \n", "d.txt"), "is empty"],
    ["a large file", file("x".repeat(4 * MOST_CHARACTERS + 1), "e.csv"), "800 kB; at most 200,000 characters"],
  ])("refuse %s with the reason", async (_, given, reason) => {
    await expect(readFile(given, "demo")).rejects.toThrow(reason);
    await expect(readFile(given, "demo")).rejects.toThrow(given.name);
  });

  it("are read in the encodings of Excel and Windows, too", async () => {
    expect((await readFile(file(new Uint8Array([0xff, 0xfe, 0x67, 0, 0xe9, 0]), "a.csv"), "")).text).toBe("gé");
    expect((await readFile(file(new Uint8Array([0x67, 0xe9, 0x3b]), "b.csv"), "")).text).toBe("gé;");
    expect((await readFile(file("\ufeffgé", "c.csv"), "")).text).toBe("gé");
  });

  it("are bounded together", () => {
    const half = { name: "half.csv", text: "x".repeat(MOST_CHARACTERS / 2) };
    expect(() => { checkTogether([half, half]); }).not.toThrow();
    expect(() => { checkTogether([half, half, { name: "more.csv", text: "x" }]); }).toThrow("more.csv: 200,001 characters in all");
    expect(() => { checkTogether(Array.from({ length: 21 }, () => ({ name: "n", text: "x" }))); }).toThrow("at most 20");
  });

  it("are shown below the question as text, whatever they hold", () => {
    const attachments = [{ name: HOSTILE, text: HOSTILE, length: 5000 }, { name: "df", text: "x", length: 1, variable: true }];
    open([{ id: "u", role: "user", text: "Look", status: "done", attachments }]);
    expect([...box.querySelectorAll(".mlcw-sent summary")].map((node) => node.firstElementChild?.textContent)).toEqual([HOSTILE, "{df}"]);
    expect(query(".mlcw-sent-text").textContent).toContain("more characters");
    expect(box.querySelector("img")).toBeNull();
    expect(parseChat({ messages: [{ id: "u", attachments: "x" }] }).messages[0]?.attachments).toEqual([]);
  });
});

describe("an empty chat", () => {
  it("suggests what the notebook has, and puts it into the box", async () => {
    const model = open();
    query("section").dispatchEvent(new Event("pointerenter"));
    await vi.waitFor(() => { expect(sent(model, "look")).toHaveLength(1); });
    model.receive({ type: "notebook", names: NAMES });
    await frame();
    const buttons = [...box.querySelectorAll<HTMLElement>(".mlcw-suggestion")];
    expect(buttons.map((button) => button.textContent)).toEqual(["Explain the last errorKeyError", "Describe dfDataFrame, 1,200 × 3"]);
    buttons[1]?.click();
    expect(input().value).toContain("{df}");
    expect(sent(model, "send")).toEqual([]);
    model.change("_chat", { rev: 2, messages: [{ id: "u", role: "user", text: "Hi", status: "done" }] });
    await frame();
    expect(query(".mlcw-suggestions").hidden).toBe(true);
  });

  it("suggests at most two frames, and nothing after an interrupt or for a variable of that name", () => {
    const frames: Variable[] = ["a", "b", "c"].map((name) => ({ name, kind: "frame", type: "DataFrame", shape: [1, 1] }));
    expect(suggestionsFor(frames)).toHaveLength(2);
    expect(suggestionsFor([{ name: "last_error", kind: "error", type: "KeyboardInterrupt", shape: null }])).toEqual([]);
    expect(suggestionsFor([{ name: "last_error", kind: "", type: "str", shape: null }])).toEqual([]);
  });
});

describe("a quotation", () => {
  it("has each line quoted", () => {
    expect(quotation("  One\n\nTwo\n")).toBe("> One\n>\n> Two");
  });
});
