/** What a chat's answer is to be compared with: another model, or other settings. */

import { h, setAttribute, setText, show } from "../dom.ts";
import { joinFacts, modelName } from "../format.ts";
import type { Engine, Options } from "../protocol.ts";
import { describeModel } from "./picker.ts";

export interface Compared {
  /** Null for the chat's own model. */
  readonly model: string | null;
  readonly settings: Readonly<Record<string, string | number | null>>;
}

let instances = 0;

/** A model's name; of a path, which may be longer than the box is wide, the last part. */
const shortName = (name: string): string => (name.startsWith("/") ? modelName(name) : name);

export class CompareForm {
  readonly node: HTMLFormElement;
  readonly #model = h("select", { class: "mlcw-field" });
  readonly #temperature = h("input", {
    class: "mlcw-field", type: "number", inputmode: "decimal", min: "0", max: "2", step: "0.1", placeholder: "Default",
  });
  readonly #system = h("textarea", {
    class: "mlcw-field", rows: "2", dir: "auto", spellcheck: "true", placeholder: "The model's own",
  });
  readonly #note = h("div", { class: "mlcw-settings-note" });
  readonly #error = h("div", { class: "mlcw-field-error mlcw-wide", role: "alert", hidden: true });
  readonly #start = h("button", { class: "mlcw-button mlcw-primary", type: "submit" }, "Compare");
  readonly #begin: (compared: Compared) => Promise<void>;
  #listed = "";
  #options: Options | null = null;

  /**
   * @param start Has the answers compared; throws an error with the reason if it is refused.
   * @param close Closes the form.
   */
  constructor(start: (compared: Compared) => Promise<void>, close: () => void, signal: AbortSignal) {
    this.#begin = start;
    const id = `mlcw-compare-${String((instances += 1))}`;
    const cancel = h("button", { class: "mlcw-button", type: "button" }, "Cancel");
    cancel.addEventListener("click", close, { signal });
    this.#note.id = id;
    setAttribute(this.#start, "aria-describedby", id);
    this.node = h("form", { class: "mlcw-settings mlcw-compare-form", role: "group", "aria-label": "Compare with", novalidate: true },
      h("div", { class: "mlcw-setting mlcw-compare-model" }, h("label", {}, "Compare with", this.#model)),
      h("div", { class: "mlcw-setting" }, h("label", {}, "Temperature", this.#temperature)),
      h("div", { class: "mlcw-setting mlcw-wide" }, h("label", {}, "System prompt", this.#system)),
      this.#error,
      h("div", { class: "mlcw-wide mlcw-row mlcw-compare-foot" }, this.#note,
        h("div", { class: "mlcw-row" }, cancel, this.#start)));
    this.node.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#submit();
    }, { signal });
    this.node.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.isComposing) return;
      event.stopPropagation();
      close();
    }, { signal });
  }

  /** Whether it is open. */
  get visible(): boolean {
    return this.node.parentNode !== null;
  }

  /** Shows the form below `above`, with the chat's own settings, to be changed. */
  open(above: HTMLElement): void {
    above.after(this.node);
    this.#explain("");
    this.#model.value = "";
    this.#temperature.value = String(this.#options?.temperature ?? "");
    this.#system.value = this.#options?.system ?? "";
    this.#model.focus();
  }

  close(): void {
    this.node.remove();
  }

  /** @param what What will be answered twice; "" if there is nothing. */
  update(options: Options, engine: Engine, what: string): void {
    this.#options = options;
    const same = modelName(engine.model) || "The same model";
    const { temperature } = engine.defaults;
    setAttribute(this.#temperature, "placeholder", temperature === undefined ? "Default" : String(temperature));
    setText(this.#note, what === "" ? "Write a message first." : what);
    this.#start.disabled = what === "" || this.node.getAttribute("aria-busy") === "true";
    const others = options.models.filter(({ name }) => name !== engine.model);
    const listed = JSON.stringify([same, others]);
    if (listed === this.#listed) return;
    this.#listed = listed;
    const chosen = this.#model.value;
    this.#model.replaceChildren(
      h("option", { value: "" }, `${same}, with other settings`),
      ...others.map((model) => h("option", { value: model.name, disabled: model.fits === false },
        joinFacts(shortName(model.name), describeModel(model)))));
    this.#model.value = others.some(({ name }) => name === chosen) ? chosen : "";
  }

  async #submit(): Promise<void> {
    if (this.#start.disabled) return;
    const temperature = this.#temperature.value.trim();
    const given: Readonly<Record<string, string | number | null>> = {
      temperature: temperature === "" ? null : Number(temperature),
      system: this.#system.value.trim() === "" ? null : this.#system.value,
    };
    const options = this.#options;
    const changed = Object.entries(given).filter(([name, value]) => value !== options?.[name as "temperature" | "system"]);
    this.#explain("");
    this.#start.disabled = true;
    setAttribute(this.node, "aria-busy", "true");
    try {
      await this.#begin({ model: this.#model.value || null, settings: Object.fromEntries(changed) });
    } catch (error) {
      this.#explain(error instanceof Error ? error.message : String(error));
    }
    setAttribute(this.node, "aria-busy", null);
    this.#start.disabled = false;
  }

  #explain(error: string): void {
    setText(this.#error, error);
    show(this.#error, error !== "");
  }
}
