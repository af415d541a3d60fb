/** The model picker: a box to search in, or to give any model's name, path or address, and a list. */

import { h, setAttribute, setText, show } from "../dom.ts";
import { formatBytes, joinFacts } from "../format.ts";
import type { Engine, ModelChoice } from "../protocol.ts";

const MOST = 50;
const HINT = "Search, or give a folder, a .gguf file, HF://user/repo or PYPI://package";

let instances = 0;

/** What is known of a model, in one line. */
export function describeModel(model: ModelChoice): string {
  const place = { "built in": "built in", here: "on this disk", download: "to download", loaded: "loaded" }[model.place];
  return joinFacts(
    place ?? (model.place && `of ${model.place}`),
    formatBytes(model.bytes),
    model.memoryBytes === null ? "" : `${formatBytes(model.memoryBytes)} memory`,
    model.licence,
    model.fits === false ? "too large for this machine" : "",
  );
}

/** The models whose name or description has every word that was typed. */
export function searchModels(models: readonly ModelChoice[], query: string): ModelChoice[] {
  const words = query.toLowerCase().split(/\s+/).filter((word) => word !== "");
  return models
    .filter((model) => {
      const text = `${model.name} ${describeModel(model)}`.toLowerCase();
      return words.every((word) => text.includes(word));
    })
    .slice(0, MOST);
}

export class ModelPicker {
  readonly node: HTMLElement;
  readonly #id = `mlcw-models-${String((instances += 1))}`;
  readonly #input = h("input", {
    class: "mlcw-field", type: "text", role: "combobox", dir: "ltr", spellcheck: "false", autocomplete: "off",
    "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": this.#id, placeholder: HINT, title: HINT,
  });
  readonly #list = h("div", { class: "mlcw-models", role: "listbox", id: this.#id, "aria-label": "Models", hidden: true });
  readonly #button = h("button", { class: "mlcw-button", type: "button" }, "Load");
  readonly #error = h("div", { class: "mlcw-field-error", role: "alert", id: `${this.#id}-error`, hidden: true });
  readonly #load: (model: string) => Promise<void>;
  #models: readonly ModelChoice[] = [];
  #shown: readonly ModelChoice[] = [];
  #active = -1;
  #loaded = "";
  /** What was typed or asked for and is not loaded; it stays in the box, whatever happens. */
  #typed: string | null = null;
  #refused = "";

  constructor(load: (model: string) => Promise<void>, signal: AbortSignal) {
    this.#load = load;
    this.node = h("div", { class: "mlcw-setting mlcw-wide mlcw-picker" },
      h("div", { class: "mlcw-picker-row" }, h("label", {}, "Model", this.#input), this.#button),
      this.#list, this.#error);
    this.#input.addEventListener("input", () => {
      this.#typed = this.#input.value;
      this.#open();
    }, { signal });
    this.#input.addEventListener("click", () => { this.#open(); }, { signal });
    this.#input.addEventListener("focus", () => { this.#input.select(); }, { signal });
    this.#input.addEventListener("blur", () => { this.#close(); }, { signal });
    this.#input.addEventListener("keydown", (event) => { this.#key(event); }, { signal });
    // Before the box loses the focus, which closes the list.
    this.#list.addEventListener("mousedown", (event) => { event.preventDefault(); }, { signal });
    this.#list.addEventListener("click", (event) => {
      const option = event.target instanceof Element ? event.target.closest("[role=option]") : null;
      const model = option ? this.#shown[[...this.#list.children].indexOf(option)] : undefined;
      if (model) void this.#choose(model.name);
    }, { signal });
    this.#button.addEventListener("click", () => void this.#choose(this.#input.value), { signal });
  }

  focus(): void {
    this.#input.focus();
  }

  update(models: readonly ModelChoice[], engine: Engine, connected: boolean): void {
    if (engine.state === "ready" && engine.failed === null && this.#typed === engine.model) this.#typed = null;
    this.#models = models;
    this.#loaded = engine.model;
    this.#input.disabled = !connected;
    if (this.#typed === null && this.#input.value !== engine.model) this.#input.value = engine.model;
    const error = engine.failed?.error ?? (engine.state === "idle" ? engine.error : null);
    const why = error?.type === "LoadCancelledError" ? "" : (error?.message ?? "");
    this.#draw(this.#refused || why);
    if (!this.#list.hidden) this.#drawList();
  }

  #draw(error: string): void {
    setText(this.#error, error);
    show(this.#error, error !== "");
    setAttribute(this.#input, "aria-invalid", error ? "true" : null);
    setAttribute(this.#input, "aria-describedby", error ? this.#error.id : null);
    const text = this.#input.value.trim();
    this.#button.disabled = this.#input.disabled || text === "" || (text === this.#loaded && error === "");
  }

  #open(): void {
    this.#active = -1;
    this.#drawList();
    this.#draw(this.#error.textContent);
  }

  #close(): void {
    show(this.#list, false);
    setAttribute(this.#input, "aria-expanded", "false");
    setAttribute(this.#input, "aria-activedescendant", null);
  }

  #drawList(): void {
    // What is loaded is no search.
    this.#shown = searchModels(this.#models, this.#typed ?? "");
    this.#list.replaceChildren(...this.#shown.map((model, index) => h(
      "div",
      {
        role: "option", id: `${this.#id}-${String(index)}`, "aria-selected": String(index === this.#active),
        class: model.fits === false ? "mlcw-model mlcw-model-large" : "mlcw-model",
      },
      h("span", { class: "mlcw-model-name", dir: "ltr" }, model.name),
      h("span", { class: "mlcw-model-facts" }, describeModel(model)),
    )));
    show(this.#list, this.#shown.length > 0);
    setAttribute(this.#input, "aria-expanded", String(this.#shown.length > 0));
    const active = this.#list.children[this.#active];
    setAttribute(this.#input, "aria-activedescendant", active?.id ?? null);
    active?.scrollIntoView({ block: "nearest" });
  }

  #key(event: KeyboardEvent): void {
    if (event.isComposing) return;
    const open = !this.#list.hidden;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!open) {
        this.#open();
        return;
      }
      const step = event.key === "ArrowDown" ? 1 : -1;
      const count = this.#shown.length + 1; // with the box itself
      this.#active = ((this.#active + 1 + step + count) % count) - 1;
      this.#drawList();
    } else if (event.key === "Enter") {
      event.preventDefault();
      void this.#choose(this.#shown[open ? this.#active : -1]?.name ?? this.#input.value);
    } else if (event.key === "Escape" && open) {
      event.stopPropagation(); // the settings stay open
      this.#close();
    }
  }

  async #choose(name: string): Promise<void> {
    const model = name.trim();
    if (model === "" || this.#input.disabled) return;
    this.#input.value = this.#typed = model;
    this.#close();
    this.#refused = "";
    try {
      await this.#load(model);
    } catch (error) {
      this.#refused = error instanceof Error ? error.message : String(error);
    }
    this.#draw(this.#refused);
  }
}
