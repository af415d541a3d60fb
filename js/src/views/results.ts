/** A form for the results of a reply's tool calls. */

import { h, show } from "../dom.ts";
import type { Message } from "../protocol.ts";

/** Lets the user enter results, unless the calls are being made. */
export class CallForm {
  readonly node: HTMLFormElement;
  readonly #fields = h("div", { class: "mlcw-results-fields" });
  readonly #send = h("button", { class: "mlcw-button mlcw-primary", type: "submit" }, "Send results");
  readonly #row = h("div", { class: "mlcw-row" }, this.#send);
  readonly #stop = h("button", { class: "mlcw-link", type: "button" }, "Stop");
  readonly #note = h("div", { class: "mlcw-results-note" }, "The calls are being made … ", this.#stop);

  constructor(send: (results: readonly string[]) => Promise<void>, stop: () => void, signal: AbortSignal) {
    this.#stop.addEventListener("click", stop, { signal });
    this.node = h("form", { class: "mlcw-results" }, this.#note, this.#fields, this.#row);
    this.node.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#send.disabled) return;
      this.#send.disabled = true;
      void send(this.#inputs().map((input) => input.value))
        .catch(() => undefined) // the composer says why not
        .finally(() => { this.#send.disabled = false; });
    }, { signal });
    this.node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.node.requestSubmit();
    }, { signal });
  }

  update({ toolCalls, calling }: Message): void {
    show(this.#note, calling);
    show(this.#fields, !calling);
    show(this.#row, !calling);
    while (this.#fields.children.length > toolCalls.length) this.#fields.lastChild?.remove();
    toolCalls.forEach(({ name }, index) => {
      const number = toolCalls.length > 1 ? ` (${index + 1} of ${toolCalls.length})` : "";
      const label = `Result of ${name || "the tool"}${number}`;
      if (this.#fields.children[index]) return;
      const input = h("textarea", { class: "mlcw-field", rows: "2", dir: "auto", spellcheck: "false" });
      this.#fields.append(h("label", {}, label, input));
    });
  }

  #inputs(): HTMLTextAreaElement[] {
    return [...this.#fields.querySelectorAll("textarea")];
  }
}
