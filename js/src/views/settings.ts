/** The settings of the chat and its model. The kernel checks each value and says what is wrong with it. */

import { h, setAttribute, setText, show } from "../dom.ts";
import { joinFacts } from "../format.ts";
import type { Engine, Intent, OptionName, Options } from "../protocol.ts";
import { ModelPicker } from "./picker.ts";
import { PromptPicker } from "./prompts.ts";

let instances = 0;

interface Field {
  readonly name: OptionName;
  readonly label: string;
  readonly hint: string;
  readonly kind: "number" | "text" | "code" | "switch";
  readonly range?: Readonly<Record<string, string>>;
}

const FIELDS: readonly Field[] = [
  { name: "system", label: "System prompt", hint: "The model's own", kind: "text" },
  { name: "temperature", label: "Temperature", hint: "Default", kind: "number", range: { min: "0", max: "2", step: "0.1" } },
  { name: "top_p", label: "Top p", hint: "Default", kind: "number", range: { min: "0", max: "1", step: "0.05" } },
  { name: "top_k", label: "Top k", hint: "Default", kind: "number", range: { min: "0", step: "1" } },
  { name: "min_p", label: "Min p", hint: "Default", kind: "number", range: { min: "0", max: "1", step: "0.01" } },
  { name: "repetition_penalty", label: "Repetition penalty", hint: "Default", kind: "number", range: { min: "0.05", max: "10", step: "0.05" } },
  { name: "max_tokens", label: "Max tokens", hint: "4096", kind: "number", range: { min: "1", step: "1" } },
  { name: "seed", label: "Seed", hint: "Random", kind: "number", range: { step: "1" } },
  { name: "logprobs", label: "Token probabilities", hint: "", kind: "switch" },
  { name: "schema", label: "JSON schema", hint: '{"type": "object", …}', kind: "code" },
];

/** The settings in which a chat differs from another one, in words. */
export function describeSettings(options: Options, other: Options): string {
  const differing = FIELDS.filter(({ name }) => options[name] !== other[name]);
  return joinFacts(...differing.map(({ name, label }) => {
    const value = options[name];
    const shown = value === null ? "default" : value === true ? "on" : value === false ? "off" : String(value);
    return `${label}: ${shown}`;
  }));
}

export class SettingsPanel {
  readonly node: HTMLElement;
  readonly #send: (intent: Intent) => Promise<void>;
  readonly #inputs = new Map<OptionName, FieldView>();
  readonly #picker: ModelPicker;
  readonly #prompts: PromptPicker;
  readonly #tools = h("div", { class: "mlcw-settings-note" });
  readonly #kept = h("div", { class: "mlcw-settings-note mlcw-kept", hidden: true });
  readonly #note = h("div", { class: "mlcw-settings-note" });

  constructor(send: (intent: Intent) => Promise<void>, signal: AbortSignal) {
    this.#send = send;
    instances += 1;
    const fields = FIELDS.map((field) => {
      const view = new FieldView(field, `mlcw-${instances}-${field.name}`, (value) => this.#set(field.name, value), signal);
      this.#inputs.set(field.name, view);
      return view.node;
    });
    this.#picker = new ModelPicker((model) => send({ kind: "load", model }), signal);
    this.#prompts = new PromptPicker({
      use: (text) => this.#set("system", text),
      keep: (prompts) => this.#try({ kind: "set", name: "system_prompts", value: prompts }),
    }, signal);
    const reset = h("button", { class: "mlcw-link", type: "button" }, "Undo changes");
    reset.addEventListener("click", () => { void this.#try({ kind: "reset" }); }, { signal });
    this.#kept.append(h("span", {}, "The notebook keeps what was changed here when it is saved."), reset);
    this.node = h("div", { class: "mlcw-settings", role: "group", "aria-label": "Settings", hidden: true },
      this.#picker.node, this.#prompts.node, ...fields, this.#tools, this.#kept, this.#note);
  }

  get visible(): boolean {
    return !this.node.hidden;
  }

  toggle(): void {
    show(this.node, !this.visible);
    if (this.visible) this.#picker.focus();
  }

  update(options: Options, engine: Engine, connected: boolean, note: string): void {
    for (const [name, view] of this.#inputs) view.update(options[name], connected, engine.defaults[name]);
    this.#picker.update(options.models, engine, connected);
    this.#prompts.update(options, connected);
    setText(this.#tools, options.tools.length > 0 ? `Tools: ${options.tools.join(", ")}` : "");
    show(this.#tools, options.tools.length > 0);
    show(this.#kept, connected && options.changed.length > 0);
    setText(this.#note, note);
    show(this.#note, note !== "");
  }

  #set(name: OptionName, value: Value): Promise<string> {
    return this.#try({ kind: "set", name, value });
  }

  async #try(intent: Intent): Promise<string> {
    try {
      await this.#send(intent);
      return "";
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  }
}

/** What a field sends; null stands for the model's default. */
type Value = string | number | boolean | null;

class FieldView {
  readonly node: HTMLElement;
  readonly #input: HTMLInputElement | HTMLTextAreaElement;
  readonly #error: HTMLElement;
  readonly #hint: string;
  #known = "";
  #invalid = false;

  constructor(
    field: Field,
    id: string,
    change: (value: Value) => Promise<string>,
    signal: AbortSignal,
  ) {
    this.#hint = field.hint;
    const attributes = { class: `mlcw-field mlcw-field-${field.kind}`, placeholder: field.hint };
    this.#input = field.kind === "switch"
      ? h("input", { type: "checkbox" })
      : field.kind === "number"
      ? h("input", { ...attributes, type: "number", inputmode: "decimal", ...field.range })
      : h("textarea", { ...attributes, rows: "2", dir: field.kind === "code" ? "ltr" : "auto", spellcheck: field.kind === "code" ? "false" : "true" });
    this.#error = h("div", { class: "mlcw-field-error", role: "alert", id, hidden: true });
    const size = { number: "", switch: " mlcw-switch", text: " mlcw-wide", code: " mlcw-wide" }[field.kind];
    this.node = h("div", { class: `mlcw-setting${size}` },
      h("label", {}, field.label, this.#input), this.#error);
    this.#input.addEventListener("change", () => {
      void change(this.#value(field.kind)).then((error) => {
        this.#invalid = error !== "";
        setText(this.#error, error);
        show(this.#error, this.#invalid);
        setAttribute(this.#input, "aria-invalid", this.#invalid ? "true" : null);
        setAttribute(this.#input, "aria-describedby", this.#invalid ? id : null);
      });
    }, { signal });
  }

  #value(kind: Field["kind"]): Value {
    if (this.#isSwitch(this.#input)) return this.#input.checked;
    const raw = this.#input.value.trim();
    const number = Number(raw);
    return raw === "" ? null : kind === "number" && Number.isFinite(number) ? number : this.#input.value;
  }

  #isSwitch(input: HTMLInputElement | HTMLTextAreaElement): input is HTMLInputElement {
    return input instanceof HTMLInputElement && input.type === "checkbox";
  }

  update(value: Value, connected: boolean, modelDefault?: number): void {
    this.#input.disabled = !connected;
    if (this.#isSwitch(this.#input)) {
      this.#input.checked = value === true;
      return;
    }
    const hint = modelDefault === undefined ? this.#hint : String(modelDefault);
    if (this.#input.placeholder !== hint) this.#input.placeholder = hint;
    const text = value === null ? "" : String(value);
    if (text === this.#known) return;
    this.#known = text;
    // Keep a value that is being typed or was refused.
    if (!this.#invalid && document.activeElement !== this.#input) this.#input.value = text;
  }
}
