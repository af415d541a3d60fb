/** Completion of `{name}` in the composer: the notebook's variables, in a list above the box. */

import { h, setAttribute, setText, show } from "../dom.ts";
import { formatCount } from "../format.ts";
import type { Variable } from "../protocol.ts";

/** As many as fit above the box in the smallest chat. */
const MOST = 5;
/** A brace that begins a variable's name, as mlc_widget/widget/prompt.py fills it in. */
const TYPED = /(?:^|[^\p{L}\p{N}_\\$^{}])\{([\p{L}_][\p{L}\p{N}_]*)?$/u;

let instances = 0;

/** What a variable is, in a few words. */
export function describeVariable({ kind, type, shape }: Variable): string {
  if (kind === "frame" && shape) return `${type}, ${formatCount(shape[0])} × ${formatCount(shape[1])}`;
  return type;
}

/** The variables whose name begins with what was typed, and then those that contain it. */
export function searchVariables(variables: readonly Variable[], typed: string): Variable[] {
  const wanted = typed.toLowerCase();
  const begins = (variable: Variable): boolean => variable.name.toLowerCase().startsWith(wanted);
  const found = variables.filter((variable) => variable.name.toLowerCase().includes(wanted));
  return [...found.filter(begins), ...found.filter((variable) => !begins(variable))].slice(0, MOST);
}

export class VariableCompletion {
  readonly node: HTMLElement;
  readonly #id = `mlcw-variables-${String((instances += 1))}`;
  readonly #input: HTMLTextAreaElement;
  readonly #look: () => void;
  readonly #live = h("span", { class: "mlcw-sr", role: "status" });
  readonly #list: HTMLElement;
  #variables: readonly Variable[] = [];
  #shown: readonly Variable[] = [];
  #active = 0;

  /** `look` asks the kernel for the variables; they come by `update`. */
  constructor(input: HTMLTextAreaElement, look: () => void, signal: AbortSignal) {
    this.#input = input;
    this.#look = look;
    this.#list = h("div", { class: "mlcw-variables", role: "listbox", id: this.#id, "aria-label": "Variables", hidden: true });
    this.node = h("div", {}, this.#list, this.#live);
    setAttribute(input, "aria-autocomplete", "list");
    setAttribute(input, "aria-controls", this.#id);
    input.addEventListener("input", () => {
      if (this.#typed() !== null && this.#list.hidden) this.#look();
      this.#active = 0;
      this.#draw();
    }, { signal });
    input.addEventListener("blur", () => { this.#close(); }, { signal });
    // Before the box loses the focus.
    this.#list.addEventListener("mousedown", (event) => { event.preventDefault(); }, { signal });
    this.#list.addEventListener("click", (event) => {
      const option = event.target instanceof Element ? event.target.closest("[role=option]") : null;
      this.#choose(this.#shown[option ? [...this.#list.children].indexOf(option) : -1]);
    }, { signal });
  }

  update(variables: readonly Variable[]): void {
    if (variables === this.#variables) return;
    this.#variables = variables;
    if (document.activeElement === this.#input || !this.#list.hidden) this.#draw();
  }

  /** Takes a key; returns whether it was for the list. */
  key(event: KeyboardEvent): boolean {
    if (this.#list.hidden) return false;
    const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    if (step !== 0) {
      this.#active = (this.#active + step + this.#shown.length) % this.#shown.length;
      this.#draw();
    } else if ((event.key === "Enter" && !event.shiftKey) || event.key === "Tab") {
      this.#choose(this.#shown[this.#active]);
    } else if (event.key === "Escape") {
      this.#close();
    } else return false;
    event.preventDefault();
    event.stopPropagation(); // Escape would stop the answer
    return true;
  }

  /** The name before the caret so far; null if none is being typed. */
  #typed(): string | null {
    const { selectionStart, selectionEnd, value } = this.#input;
    if (selectionStart !== selectionEnd) return null;
    const found = TYPED.exec(value.slice(0, selectionStart));
    return found ? (found[1] ?? "") : null;
  }

  #draw(): void {
    const typed = this.#typed();
    this.#shown = typed === null ? [] : searchVariables(this.#variables, typed);
    if (this.#shown.length === 0) {
      this.#close();
      return;
    }
    this.#active = Math.min(this.#active, this.#shown.length - 1);
    this.#list.replaceChildren(...this.#shown.map((variable, index) => h(
      "div",
      { role: "option", id: `${this.#id}-${String(index)}`, "aria-selected": String(index === this.#active), class: "mlcw-model" },
      h("span", { class: "mlcw-model-name", dir: "ltr" }, variable.name),
      h("span", { class: "mlcw-model-facts" }, describeVariable(variable)),
    )));
    show(this.#list, true);
    const active = this.#list.children[this.#active];
    setAttribute(this.#input, "aria-activedescendant", active?.id ?? null);
    const count = this.#shown.length;
    setText(this.#live, `${String(count)} ${count === 1 ? "variable" : "variables"}; Tab takes the selected one`);
  }

  #close(): void {
    show(this.#list, false);
    setText(this.#live, "");
    setAttribute(this.#input, "aria-activedescendant", null);
  }

  #choose(variable: Variable | undefined): void {
    if (!variable) return;
    const { selectionStart: end, value } = this.#input;
    const start = end - (this.#typed() ?? "").length;
    const closed = value.startsWith("}", end) ? 1 : 0;
    this.#input.setRangeText(`${variable.name}}`, start, end + closed, "end");
    this.#input.dispatchEvent(new Event("input"));
  }
}
