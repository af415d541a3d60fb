import { describe, expect, it, vi } from "vitest";

import { CELLS_MIME, readCells } from "../src/notebook-cells.ts";
import { MOST_CHARACTERS, readDragged } from "../src/attachments.ts";
import { box, query, show } from "./page.ts";

const ready = { rev: 1, state: "ready", model: "demo", device: "cpu", progress: null, error: null };
const code = (source: unknown, ...outputs: unknown[]): object => ({ cell_type: "code", source, outputs });
const stream = (text: unknown): object => ({ output_type: "stream", name: "stdout", text });
const shown = (data: object): object => ({ output_type: "display_data", data, metadata: {} });
const text = (value: unknown): string | undefined => readCells(value).attachment?.text;

describe("cells as text", () => {
  it.each([
    ["a source", [code("x = 1\n")], "x = 1"],
    ["a source of lines", [code(["x = 1\n", "y = 2"])], "x = 1\ny = 2"],
    ["Markdown", [{ cell_type: "markdown", source: "# Title", outputs: [stream("no")] }], "# Title"],
    ["an output", [code("x", stream(["1\n", "2\n"]))], "x\n\nOutput:\n1\n2"],
    ["a progress bar, as it is at the end", [code("x", stream("10 %\r50 %\r100 %\r\nDone\r"))], "x\n\nOutput:\n100 %\nDone"],
    ["a frame, not its HTML", [code("df", shown({ "text/html": "<table>", "text/plain": ["   a\n", "0  1"] }))], "df\n\nOutput:\n   a\n0  1"],
    ["a traceback without colours", [code("1/0", { output_type: "error", ename: "ZeroDivisionError", evalue: "division", traceback: ["\u001b[31mTraceback", "division"] })], "1/0\n\nOutput:\nTraceback\ndivision"],
    ["an error alone", [code("1/0", { output_type: "error", ename: "E", evalue: "why", traceback: [] })], "1/0\n\nOutput:\nE: why"],
    ["no widget", [code("w", shown({ "application/vnd.jupyter.widget-view+json": {}, "text/plain": "<Widget>" }))], "w"],
    ["JSON, as browsers give it", JSON.stringify([code("x")]), "x"],
    ["several", [code("a"), {}, code("b")], "a\n\nb"],
  ])("have %s", (_, cells, expected) => {
    expect(text(cells)).toBe(expected);
  });

  it.each([null, undefined, 7, "{", "[]", {}, [[]], [{ source: {} }], [{ cell_type: "code", source: 5, outputs: "x" }], [code("", { data: [] })]])(
    "%# are none", (value) => {
      expect(readCells(value)).toEqual({ attachment: null, images: 0 });
    });

  it("count the images that are left out", () => {
    const plot = shown({ "image/png": "aGk=", "text/plain": "<Figure size 640x480>" });
    expect(readCells([code("plot()", plot, plot)])).toEqual({
      attachment: { name: "Cell", text: "plot()\n\nOutput:\n<Figure size 640x480>\n<Figure size 640x480>" },
      images: 2,
    });
    expect(readCells([code("a"), code("b")]).attachment?.name).toBe("2 cells");
  });
});

/** An event of JupyterLab's drags. */
function drag(type: string, target: Element, cells: unknown, mime = CELLS_MIME): Event & { dropAction?: string } {
  const event = new Event(type, { bubbles: true, cancelable: true });
  const mimeData = { hasData: (name: string) => name === mime, getData: () => cells };
  Object.assign(event, { mimeData, proposedAction: "copy", dropAction: "none", relatedTarget: null });
  target.dispatchEvent(event);
  return event;
}

describe("a chat on which cells are dropped", () => {
  const chips = (): string[] => [...box.querySelectorAll(".mlcw-chip-name")].map(({ textContent }) => textContent);
  const open = (): HTMLElement => {
    show({ _view: "chat", _engine: ready, _chat: { rev: 1, messages: [] }, _live: {} });
    return query(".mlcw-log");
  };

  it("attaches them before the notebook moves them", async () => {
    const log = open();
    const notebook = vi.fn();
    for (const type of ["lm-dragenter", "lm-dragover", "lm-drop"]) document.body.addEventListener(type, notebook, { capture: true, signal: AbortSignal.timeout(5000) });
    expect(drag("lm-dragenter", log, null).defaultPrevented).toBe(true);
    expect(query(".mlcw-chat").classList.contains("mlcw-dropping")).toBe(true);
    expect(drag("lm-dragover", log, null).dropAction).toBe("copy");
    expect(drag("lm-drop", log, [code("x", shown({ "image/png": "" }))]).dropAction).toBe("copy");
    await vi.waitFor(() => { expect(chips()).toEqual(["Cell"]); });
    expect(query(".mlcw-note").textContent).toBe("demo cannot see images: one was left out.");
    expect(query(".mlcw-chat").classList.contains("mlcw-dropping")).toBe(false);
    expect(notebook).not.toHaveBeenCalled();
  });

  it("leaves other drags, and those beside it, alone", () => {
    const log = open();
    expect(drag("lm-drop", log, "x", "text/plain").defaultPrevented).toBe(false);
    expect(drag("lm-drop", document.body, [code("x")]).defaultPrevented).toBe(false);
    expect(chips()).toEqual([]);
  });

  it.each([[[{}], "These cells have no text."], ["rubbish", "These cells have no text."], [[code("x".repeat(MOST_CHARACTERS + 1))], "at most 200,000 characters"]])(
    "%# says why it attached nothing", (cells, reason) => {
      drag("lm-drop", open(), cells);
      expect(query(".mlcw-note").textContent).toContain(reason);
      expect(chips()).toEqual([]);
    });

  it("takes pasted ones, too", () => {
    open();
    const event = new Event("paste", { bubbles: true, cancelable: true });
    const clipboardData = { files: [], getData: (type: string) => (type === CELLS_MIME ? JSON.stringify([code("x = 1")]) : "x = 1") };
    Object.assign(event, { clipboardData });
    query("textarea.mlcw-input").dispatchEvent(event);
    expect(event.defaultPrevented).toBe(true);
    expect(chips()).toEqual(["Cell"]);
  });
});

const PNG = "data:image/png;base64,aGk=";
const TABLE = "<table><tr><td>Rome<td>30</table>";

describe("an output that is dragged by the browser", () => {
  it.each([
    ["a printed line", { text: "42\n" }, { name: "Dropped text", text: "42" }, 0],
    ["a frame", { text: "city\tdegrees\r\nRome\t30", html: TABLE }, { name: "Dropped table", text: "city\tdegrees\nRome\t30" }, 0],
    ["a traceback", { text: "\u001b[31mTraceback (most recent call last):\u001b[0m\n…" }, { name: "Dropped traceback", text: "Traceback (most recent call last):\n…" }, 0],
    ["text with plots", { text: "Loss", html: `Loss<img src="${PNG}"><svg></svg>` }, { name: "Dropped text", text: "Loss" }, 2],
    ["a plot", { html: `<img src="${PNG}">`, address: PNG }, null, 1],
    ["a plot whose address is its text", { text: "http://h/plot.png", html: "<IMG src='plot.png'/>", address: "http://h/plot.png\r\n" }, null, 1],
    ["a plot as text alone", { text: PNG }, null, 1],
    ["nothing", { text: " \n" }, null, 0],
  ])("%s is read", (_, given, attachment, images) => {
    expect(readDragged({ text: "", html: "", address: "", ...given })).toEqual({ attachment, images });
  });

  /** Drags these data over a target and drops them there; returns whether the chat took them. */
  const dropOn = (target: Element, data: Record<string, string>): boolean => {
    const dataTransfer = { types: Object.keys(data), files: [], getData: (type: string) => data[type] ?? "" };
    const [, drop] = ["dragover", "drop"].map((type) => {
      const event = new Event(type, { bubbles: true, cancelable: true });
      target.dispatchEvent(Object.assign(event, { dataTransfer, relatedTarget: null }));
      return event.defaultPrevented;
    });
    return drop === true;
  };
  const open = (): void => { show({ _view: "chat", _engine: ready, _chat: { rev: 1, messages: [] }, _live: {} }); };
  const names = (): string[] => [...box.querySelectorAll(".mlcw-chip-name")].map(({ textContent }) => textContent);
  const note = (): string => query(".mlcw-note").textContent;

  it("becomes an attachment anywhere in the chat", () => {
    open();
    expect(dropOn(query(".mlcw-log"), { "text/plain": "42", "text/html": "<pre>42</pre>" })).toBe(true);
    expect(names()).toEqual(["Dropped text"]);
    expect(query(".mlcw-chat").classList.contains("mlcw-dropping")).toBe(false);
  });

  it("is refused if it is an image, also by the box", () => {
    open();
    for (const target of [query(".mlcw-log"), query("textarea.mlcw-input")]) {
      expect(dropOn(target, { "text/uri-list": PNG, "text/html": `<img src="${PNG}">`, "text/plain": PNG })).toBe(true);
      expect(note()).toBe("demo cannot see images: one was left out.");
    }
    expect(names()).toEqual([]);
  });

  it("is typed if it is short and dropped on the box, as a paste is", () => {
    open();
    const input = query("textarea.mlcw-input");
    expect(dropOn(input, { "text/plain": "42" })).toBe(false);
    expect(dropOn(input, { "text/plain": "a\tb\n1\t2", "text/html": TABLE })).toBe(true);
    expect(names()).toEqual(["Dropped table"]);
  });

  it("is left to the browser if it comes from the chat itself, or is something else", () => {
    open();
    const log = query(".mlcw-log");
    expect(dropOn(log, { "application/x-other": "x" })).toBe(false);
    log.dispatchEvent(new Event("dragstart", { bubbles: true }));
    expect(dropOn(log, { "text/plain": "42" })).toBe(false);
    log.dispatchEvent(new Event("dragend", { bubbles: true }));
    expect(dropOn(log, { "text/plain": "42" })).toBe(true);
  });
});
