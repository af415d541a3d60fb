/** The title in a chat's header: a button that becomes a box to write in. Enter saves, Escape cancels. */

import { h, setAttribute, setText, show } from "../dom.ts";

export class TitleView {
  readonly node = h("div", { class: "mlcw-title", hidden: true });
  readonly #text = h("span", { class: "mlcw-title-text", dir: "auto" });
  readonly #button = h("button", { class: "mlcw-title-button", type: "button" }, this.#text);
  readonly #input = h("input", {
    class: "mlcw-field mlcw-title-field",
    type: "text",
    "aria-label": "Title of the chat",
    dir: "auto",
    maxlength: "200",
    placeholder: "From the first message",
    hidden: true,
  });
  readonly #rename: (title: string) => Promise<void>;
  #title = "";

  /** `rename` resolves when the kernel has taken the title; it throws an error if the kernel refuses it. */
  constructor(rename: (title: string) => Promise<void>, signal: AbortSignal) {
    this.#rename = rename;
    this.node.append(this.#button, this.#input);
    this.#button.addEventListener("click", () => { this.#begin(); }, { signal });
    this.#input.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") {
        event.stopPropagation(); // the chat would stop the running answer
        this.#input.value = this.#title;
        this.#end();
      } else if (event.key === "Enter") {
        event.preventDefault();
        void this.#save();
      }
    }, { signal });
    this.#input.addEventListener("blur", () => { void this.#save(); }, { signal });
  }

  update(title: string, connected: boolean): void {
    this.#title = title;
    show(this.node, title !== "" || this.#editing);
    setText(this.#text, title);
    setAttribute(this.#button, "title", connected ? `${title}\nClick to rename` : title);
    setAttribute(this.#button, "aria-label", `Rename the chat: ${title}`);
    this.#button.disabled = !connected;
  }

  get #editing(): boolean {
    return !this.#input.hidden;
  }

  #begin(): void {
    this.#input.value = this.#title;
    show(this.#button, false);
    show(this.#input, true);
    this.#input.focus();
    this.#input.select();
  }

  #end(): void {
    const focused = document.activeElement === this.#input;
    show(this.#input, false);
    show(this.#button, true);
    if (focused) this.#button.focus();
  }

  async #save(): Promise<void> {
    if (!this.#editing) return;
    const title = this.#input.value.trim();
    const changed = title !== this.#title;
    this.#end();
    if (changed) await this.#rename(title).catch(() => undefined); // the composer says why not
  }
}
