/** Takes code of replies into the notebook. Running it is asked for once in each notebook. */

import type { Cells } from "../cells.ts";
import { h } from "../dom.ts";
import { CELL_EVENT, type CellAction, type CellRequest } from "../markdown/view.ts";
import { MOMENT } from "./buttons.ts";

const KEY = "mlc_widget:run-code:";
const DONE: Readonly<Record<CellAction, string>> = { insert: "Inserted", replace: "Replaced", run: "Running" };
const FAILED: Readonly<Record<CellAction, string>> = {
  insert: "Not inserted",
  replace: "No code cell above",
  run: "Inserted, not run",
};

export function bindCells(root: HTMLElement, cells: Cells | null, signal: AbortSignal): void {
  if (!cells) return;
  root.dataset["mlcwCells"] = cells.canRun ? "run" : ""; // the style sheet shows the buttons
  root.addEventListener(CELL_EVENT, (event) => {
    const request = (event as CustomEvent<CellRequest>).detail;
    if (request.action === "run" && !remembered(cells)) ask(cells, request, signal);
    else void perform(cells, request);
  }, { signal });
}

async function perform(cells: Cells, { action, code, button }: CellRequest): Promise<void> {
  let done = false;
  try {
    done = action === "insert" ? cells.insert(code, button)
      : action === "replace" ? cells.replaceAbove(code, button)
      : await cells.run(code, button);
  } catch {
    // The host is another than we know: say that it was not done.
  }
  if (action === "run") button.focus({ preventScroll: true }); // the new cell had it
  const label = button.dataset["mlcwLabel"] ?? button.textContent;
  button.dataset["mlcwLabel"] = label;
  button.textContent = (done ? DONE : FAILED)[action];
  setTimeout(() => { button.textContent = label; }, MOMENT);
}

/** Asks whether the model's code may run, below the code itself. */
function ask(cells: Cells, request: CellRequest, signal: AbortSignal): void {
  const block = request.button.closest(".mlcw-code");
  if (!block || block.querySelector(".mlcw-ask")) return;
  const button = (label: string, act: () => void): HTMLButtonElement => {
    const made = h("button", { class: "mlcw-button", type: "button" }, label);
    made.addEventListener("click", () => {
      question.remove();
      request.button.focus();
      act();
    }, { signal });
    return made;
  };
  const question = h("div", { class: "mlcw-ask", role: "group", "aria-label": "Run the model's code" },
    h("span", {}, "Run this in your kernel? A model wrote it: read it first."),
    button("Run", () => void perform(cells, request)),
    button("Always in this notebook", () => {
      remember(cells);
      void perform(cells, request);
    }),
    button("Cancel", () => undefined));
  block.append(question);
  question.querySelector("button")?.focus();
}

/** Kept by the browser and not in the notebook, which may come from somebody else. */
function remembered(cells: Cells): boolean {
  try {
    return localStorage.getItem(KEY + cells.notebook) === "always";
  } catch {
    return false;
  }
}

function remember(cells: Cells): void {
  try {
    localStorage.setItem(KEY + cells.notebook, "always");
  } catch {
    // A browser that keeps nothing asks again.
  }
}
