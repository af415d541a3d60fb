/** Pinned system prompts: chosen by their names, beside the box of the system prompt. */

import { h, setAttribute, setText, show } from "../dom.ts";
import type { Options } from "../protocol.ts";

export interface PromptActions {
  /** Make this the system prompt; resolves to why it was refused, or "". */
  readonly use: (text: string) => Promise<string>;
  /** Replace all pinned prompts; as above. */
  readonly keep: (prompts: Readonly<Record<string, string>>) => Promise<string>;
}

export class PromptPicker {
  readonly node: HTMLElement;
  readonly #select = h("select", { class: "mlcw-field" });
  readonly #pin = h("button", { class: "mlcw-button", type: "button" }, "Pin this prompt");
  readonly #unpin = h("button", { class: "mlcw-button", type: "button" }, "Unpin");
  readonly #name = h("input", { class: "mlcw-field", type: "text", maxlength: "100", "aria-label": "Name of the prompt", placeholder: "Name", dir: "auto" });
  readonly #form: HTMLFormElement;
  readonly #error = h("div", { class: "mlcw-field-error", role: "alert", hidden: true });
  readonly #actions: PromptActions;
  #prompts: Readonly<Record<string, string>> = {};
  #system = "";
  #connected = false;

  constructor(actions: PromptActions, signal: AbortSignal) {
    this.#actions = actions;
    const save = h("button", { class: "mlcw-button mlcw-primary", type: "submit" }, "Pin");
    const cancel = h("button", { class: "mlcw-button", type: "button" }, "Cancel");
    this.#form = h("form", { class: "mlcw-prompt-name", hidden: true }, this.#name, save, cancel);
    this.node = h("div", { class: "mlcw-setting mlcw-wide mlcw-prompts", hidden: true },
      h("div", { class: "mlcw-picker-row" }, h("label", {}, "Pinned prompts", this.#select), this.#pin, this.#unpin),
      this.#form, this.#error);
    this.#select.addEventListener("change", () => {
      const text = this.#prompts[this.#select.value];
      if (text !== undefined) void this.#try(this.#actions.use(text));
    }, { signal });
    this.#pin.addEventListener("click", () => { this.#begin(); }, { signal });
    this.#unpin.addEventListener("click", () => {
      const kept = Object.entries(this.#prompts).filter(([, text]) => text !== this.#system);
      void this.#try(this.#actions.keep(Object.fromEntries(kept)));
      this.#select.focus();
    }, { signal });
    cancel.addEventListener("click", () => { this.#end(); }, { signal });
    this.#form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.isComposing) return;
      event.stopPropagation(); // it would close the settings
      this.#end();
    }, { signal });
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#save();
    }, { signal });
  }

  update({ system, system_prompts: prompts }: Options, connected: boolean): void {
    this.#connected = connected;
    this.#system = system ?? "";
    if (JSON.stringify(prompts) !== JSON.stringify(this.#prompts) || this.#select.options.length === 0) {
      this.#prompts = prompts;
      const names = Object.keys(prompts);
      this.#select.replaceChildren(
        h("option", { value: "" }, names.length === 0 ? "None yet" : "Choose one"),
        ...names.map((name) => h("option", { value: name }, name)));
    }
    const pinned = Object.entries(prompts).find(([, text]) => text === this.#system)?.[0];
    this.#select.value = pinned ?? "";
    this.#select.disabled = !connected;
    show(this.node, Object.keys(prompts).length > 0 || this.#system !== "");
    show(this.#unpin, pinned !== undefined && connected);
    this.#draw();
  }

  #draw(): void {
    const pinned = Object.values(this.#prompts).includes(this.#system);
    show(this.#pin, this.#connected && this.#form.hidden && this.#system !== "" && !pinned);
  }

  #begin(): void {
    this.#name.value = this.#system.trim().split(/\s+/).slice(0, 4).join(" ").slice(0, 40);
    show(this.#form, true);
    this.#draw();
    this.#name.focus();
    this.#name.select();
  }

  #end(): void {
    show(this.#form, false);
    show(this.#error, false);
    this.#draw();
    if (this.#pin.hidden) this.#select.focus();
    else this.#pin.focus();
  }

  async #save(): Promise<void> {
    const name = this.#name.value.trim();
    if (name === "") return;
    if (await this.#try(this.#actions.keep({ ...this.#prompts, [name]: this.#system }))) this.#end();
  }

  async #try(request: Promise<string>): Promise<boolean> {
    const error = await request;
    setText(this.#error, error);
    show(this.#error, error !== "");
    setAttribute(this.#name, "aria-invalid", error === "" ? null : "true");
    return error === "";
  }
}
