import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import widget from "../src/index.ts";
import { FakeModel } from "./fakes.ts";

const ready = { rev: 1, state: "ready", model: "demo", device: "cpu", progress: null, error: null };
const CODE = "Try:\n\n```python\nprint(1)\n```\n\nand\n\n```\nprint(2)\n```\n\n```bash\nls\n```\n";
const chat = { rev: 1, messages: [
  { id: "u", role: "user", text: "Hi", status: "done" },
  { id: "a", role: "assistant", text: CODE, status: "done" },
] };

class Cell {
  execution_count: number | null = null;
  constructor(readonly id: string, public source: string, readonly cell_type = "code", readonly widget = "") {}
  setSource(source: string): void { this.source = source; }
  getOutputs(): object[] {
    return this.widget ? [{ data: { "application/vnd.jupyter.widget-view+json": { model_id: this.widget } } }] : [];
  }
}

let page: AbortController;
let box: HTMLElement;
let cells: Cell[];
let commands: string[];
const execute = (name: string): Promise<void> => {
  commands.push(name);
  const cell = cells[drawn().findIndex((node) => node.classList.contains("jp-mod-active"))];
  if (name === "notebook:run-cell" && cell) cell.execution_count = 1;
  return Promise.resolve();
};
const drawn = (): Element[] => [...document.querySelectorAll(".jp-Cell")];
/** Draws a cell as the notebook does, which activates it when something in it gets the focus. */
function draw(content: Element): HTMLElement {
  const node = document.createElement("div");
  node.className = "jp-Cell";
  node.append(content);
  node.addEventListener("focusin", () => {
    for (const other of drawn()) other.classList.toggle("jp-mod-active", other === node);
  });
  return node;
}
function editor(): HTMLElement {
  const content = document.createElement("div");
  content.className = "cm-content";
  content.tabIndex = 0;
  return content;
}

beforeEach(() => {
  page = new AbortController();
  box = document.createElement("div");
  document.body.replaceChildren(draw(editor()), draw(box), draw(editor()));
  localStorage.clear();
  commands = [];
  cells = [new Cell("1", "x = 1"), new Cell("2", "ChatWidget(engine)", "code", "c"), new Cell("3", "last")];
  Object.assign(globalThis, { jupyterapp: { commands: { execute } } });
});
afterEach(() => {
  page.abort();
  Object.assign(globalThis, { jupyterapp: undefined });
});

function open(manager: unknown): void {
  const model = new FakeModel({ _view: "chat", _engine: ready, _chat: chat, _live: {}, _options: {} });
  model.widget_manager = manager;
  widget.initialize({ model, signal: page.signal });
  widget.render({ model, el: box, signal: page.signal });
}
const notebook = (readOnly = false): unknown => ({
  context: {
    path: "a.ipynb",
    model: {
      readOnly,
      sharedModel: {
        cells,
        insertCell: (index: number, { source }: { source: string }) => {
          const cell = new Cell(`new-${String(cells.length)}`, source);
          cells.splice(index, 0, cell);
          drawn()[index - 1]?.after(draw(editor()));
          return cell;
        },
      },
    },
  },
});
const buttons = (name: string): HTMLButtonElement[] =>
  [...box.querySelectorAll<HTMLButtonElement>("button")].filter((button) => button.textContent === name);
const press = (name: string, which = 0): void => { buttons(name)[which]?.click(); };
const sources = (): string[] => cells.map((cell) => cell.source);

describe("code and cells", () => {
  it.each([
    ["none", undefined],
    ["another host's", { get_model: () => null }],
    ["without a document", { context: null }],
    ["another version's", { context: { model: { sharedModel: { cells: [] } } } }],
    ["VS Code's", { context: { path: undefined, model: { sharedModel: { cells: [], insertCell: () => ({}) } } } }],
  ])("shows no buttons with a manager that is %s", (_, manager) => {
    open(manager);
    expect(box.querySelector(".mlcw-chat")?.hasAttribute("data-mlcw-cells")).toBe(false);
    press("Insert");
    expect(sources()).toEqual(["x = 1", "ChatWidget(engine)", "last"]);
  });

  it.each([undefined, {}, { commands: {} }])("does not offer to run cells with the application %j", (jupyterapp) => {
    Object.assign(globalThis, { jupyterapp });
    open(notebook());
    expect(box.querySelector(".mlcw-chat")?.getAttribute("data-mlcw-cells")).toBe("");
  });

  it("offers Python and unlabelled code, and no other language", () => {
    open(notebook());
    expect(box.querySelector(".mlcw-chat")?.getAttribute("data-mlcw-cells")).toBe("run");
    expect(buttons("Copy")).toHaveLength(3);
    expect(buttons("Run")).toHaveLength(2);
  });

  it("inserts cells below the chat's, in the order in which they were asked for", () => {
    open(notebook());
    press("Insert", 0);
    press("Insert", 0);
    expect(sources()).toEqual(["x = 1", "ChatWidget(engine)", "print(1)", "print(2)", "last"]);
    expect(buttons("Inserted")).toHaveLength(2);
  });

  it("replaces the cell above, if it has code", () => {
    open(notebook());
    press("Replace");
    expect(sources()).toEqual(["print(1)", "ChatWidget(engine)", "last"]);
    cells[0] = new Cell("0", "# A title", "markdown");
    press("Replace");
    expect(sources()[0]).toBe("# A title");
    expect(buttons("No code cell above")).toHaveLength(1);
  });

  it("changes nothing in a notebook that cannot be written", () => {
    open(notebook(true));
    press("Insert");
    press("Replace");
    expect(sources()).toEqual(["x = 1", "ChatWidget(engine)", "last"]);
    expect(buttons("Not inserted")).toHaveLength(1);
  });

  it("asks before it runs a cell, and remembers an answer for this notebook", async () => {
    open(notebook());
    press("Run", 0);
    expect(commands).toEqual([]);
    press("Cancel");
    expect(sources()).toHaveLength(3);
    press("Run", 0);
    press("Run", 1); // the question's; the block's own comes before it
    await vi.waitFor(() => { expect(buttons("Running")).toHaveLength(1); });
    expect(document.activeElement).toBe(buttons("Running")[0]);
    expect(commands).toEqual(["notebook:run-cell"]);
    expect(cells[2]).toMatchObject({ source: "print(1)", execution_count: 1 });
    press("Run", 0); // asked again, as it was not to be remembered
    press("Always in this notebook");
    await vi.waitFor(() => { expect(commands).toHaveLength(2); });
    expect(cells[3]).toMatchObject({ source: "print(2)", execution_count: 1 });
    expect(Object.keys(localStorage)).toEqual([`mlc_widget:run-code:${location.origin}/a.ipynb`]);
  });
});
