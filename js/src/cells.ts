/**
 * The cells of the notebook in JupyterLab and Notebook 7. Other hosts, such as VS Code, Colab and
 * marimo, give no access to theirs.
 *
 * Both have Jupyter's widget manager, whose `context` is the document's: its shared model is what
 * the notebook itself edits, so what changes here can be undone there and reaches collaborators.
 */

import type { Model } from "./host.ts";

interface SharedCell {
  readonly id?: string;
  readonly cell_type?: string;
  readonly execution_count?: number | null;
  readonly executionState?: string;
  getOutputs?(): readonly unknown[];
  setSource(source: string): void;
}

interface SharedNotebook {
  readonly cells: readonly SharedCell[];
  insertCell(index: number, cell: { cell_type: string; source: string; metadata: object }): SharedCell;
}

interface Context {
  readonly path: string;
  readonly model: { readonly readOnly?: boolean; readonly sharedModel: SharedNotebook };
}

const WIDGET = "application/vnd.jupyter.widget-view+json";
/** Milliseconds within which the notebook begins to run a cell, if it does. */
const PATIENCE = 3000;

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null;

function contextOf(model: Model): Context | null {
  try {
    const manager = model.widget_manager;
    const context = isRecord(manager) ? manager["context"] : null;
    const document = isRecord(context) ? context["model"] : null;
    const shared = isRecord(document) ? document["sharedModel"] : null;
    // VS Code's widget manager has a context, too, with an empty notebook that is no file.
    if (!isRecord(context) || typeof context["path"] !== "string") return null;
    if (!isRecord(shared) || !Array.isArray(shared["cells"]) || typeof shared["insertCell"] !== "function") return null;
    return context as unknown as Context;
  } catch {
    return null;
  }
}

/** The notebook's cells around the one that shows a widget. */
export class Cells {
  readonly #model: Model;
  readonly #context: Context;
  /** Cells that were inserted from here; the next one comes after them. */
  readonly #inserted = new Set<string>();

  constructor(model: Model, context: Context) {
    this.#model = model;
    this.#context = context;
  }

  /** Names the notebook, for what is remembered of it. */
  get notebook(): string {
    return `${globalThis.location.origin}/${this.#context.path}`;
  }

  /** Inserts a cell with this code below the widget's, and below those inserted before. */
  insert(code: string, element: Element): boolean {
    return this.#insert(code, element) !== null;
  }

  /** Replaces the code of the cell above the widget's. Returns false if there is none. */
  replaceAbove(code: string, element: Element): boolean {
    const cell = this.#cells[this.#index(element) - 1];
    if (this.#readOnly || cell?.cell_type !== "code") return false;
    cell.setSource(code);
    return true;
  }

  /** Whether the host lets us run cells. */
  get canRun(): boolean {
    return commandsOf() !== null;
  }

  /** Inserts a cell and runs it. Resolves to false if the notebook did not run it. */
  async run(code: string, element: Element): Promise<boolean> {
    const index = this.#insert(code, element);
    const cell = this.#cells[index ?? -1];
    if (index === null || !(await activate(element, index - this.#index(element)))) return false;
    void commandsOf()?.execute("notebook:run-cell").catch(() => undefined); // the cell shows its errors
    for (let waited = 0; waited < PATIENCE; waited += 50) {
      if (started(cell)) return true;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return false;
  }

  get #cells(): readonly SharedCell[] {
    return this.#context.model.sharedModel.cells;
  }

  get #readOnly(): boolean {
    return this.#context.model.readOnly === true;
  }

  #insert(code: string, element: Element): number | null {
    if (this.#readOnly) return null;
    let index = this.#index(element) + 1;
    while (this.#inserted.has(this.#cells[index]?.id ?? "")) index += 1;
    const cell = this.#context.model.sharedModel.insertCell(index, { cell_type: "code", source: code, metadata: {} });
    if (cell.id !== undefined) this.#inserted.add(cell.id);
    return index;
  }

  /** The index of the cell that shows the widget; of the last one if it cannot be found. */
  #index(element: Element): number {
    const id = this.#model.get("_comm_id");
    const shows = (cell: SharedCell): boolean => (cell.getOutputs?.() ?? []).some((output) => {
      const data = isRecord(output) ? output["data"] : null;
      const view = isRecord(data) ? data[WIDGET] : null;
      return isRecord(view) && view["model_id"] === id;
    });
    // Where several cells show it, or it is inside another widget, the page tells.
    const drawn = element.closest("[data-windowed-list-index]")?.getAttribute("data-windowed-list-index");
    const index = Number(drawn ?? Number.NaN);
    const there = this.#cells[index];
    const found = this.#cells.findIndex(shows);
    if (there && (found === -1 || shows(there))) return index;
    return found === -1 ? this.#cells.length - 1 : found;
  }
}

/** The cells of the host's notebook; null where it has none or gives no access to them. */
export function cellsOf(model: Model): Cells | null {
  const context = contextOf(model);
  return context && new Cells(model, context);
}

function started(cell: SharedCell | undefined): boolean {
  return cell !== undefined && (typeof cell.execution_count === "number" || cell.executionState === "running");
}

/** Makes the cell that comes `after` cells below the widget's the active one, as a focus in it does. */
async function activate(element: Element, after: number): Promise<boolean> {
  for (let waited = 0; waited < PATIENCE; waited += 50) {
    let cell = element.closest(".jp-Cell");
    for (let at = 0; at < after; at += 1) cell = cell?.nextElementSibling ?? null;
    cell?.scrollIntoView({ block: "nearest" }); // those that are far away are not drawn
    cell?.querySelector<HTMLElement>(".cm-content")?.focus();
    if (cell?.classList.contains("jp-mod-active") === true) return true;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return false;
}

interface Commands {
  execute(name: string): Promise<unknown>;
}

/**
 * The commands of JupyterLab or Notebook 7, which only a server that was started with
 * `--expose-app-in-browser` gives to its page. Links to commands would work elsewhere, too, but the
 * notebook asks about each of them.
 */
function commandsOf(): Commands | null {
  const app = (globalThis as { readonly jupyterapp?: unknown }).jupyterapp;
  const commands = isRecord(app) ? app["commands"] : null;
  return isRecord(commands) && typeof commands["execute"] === "function" ? (commands as unknown as Commands) : null;
}
