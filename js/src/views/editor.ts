/** The box to edit a message of the user's. Enter sends, Shift+Enter begins a new line, Escape cancels. */

import { h, setText, show } from "../dom.ts";

export interface EditorActions {
  /** Resolves when the kernel has accepted the message; throws an error with the reason if it refuses. */
  readonly save: (text: string) => Promise<void>;
  readonly cancel: () => void;
}

export class Editor {
  readonly node: HTMLFormElement;
  readonly #input: HTMLTextAreaElement;
  readonly #error = h("div", { class: "mlcw-note mlcw-note-error", role: "alert", hidden: true });
  readonly #actions: EditorActions;
  #saving = false;

  constructor(text: string, actions: EditorActions, signal: AbortSignal) {
    this.#actions = actions;
    this.#input = h("textarea", { class: "mlcw-input", "aria-label": "Edit message", dir: "auto", rows: "1" });
    this.#input.value = text;
    const cancel = h("button", { class: "mlcw-button", type: "button" }, "Cancel");
    const save = h("button", { class: "mlcw-button mlcw-primary", type: "submit" }, "Send");
    this.node = h("form", { class: "mlcw-editor" }, this.#input, this.#error, h("div", { class: "mlcw-row" }, cancel, save));
    cancel.addEventListener("click", actions.cancel, { signal });
    this.node.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#save();
    }, { signal });
    this.#input.addEventListener("input", () => { this.#fit(); }, { signal });
    this.#input.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") {
        event.stopPropagation(); // the chat would stop the running answer
        actions.cancel();
      } else if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        void this.#save();
      }
    }, { signal });
  }

  begin(): void {
    this.#fit();
    this.#input.focus();
    this.#input.setSelectionRange(this.#input.value.length, this.#input.value.length);
  }

  async #save(): Promise<void> {
    const text = this.#input.value;
    if (this.#saving || text.trim() === "") return;
    this.#saving = true;
    try {
      await this.#actions.save(text);
    } catch (error) {
      setText(this.#error, error instanceof Error ? error.message : String(error));
      show(this.#error, true);
    } finally {
      this.#saving = false;
    }
  }

  #fit(): void {
    this.#input.style.height = "auto";
    this.#input.style.height = `${this.#input.scrollHeight}px`;
  }
}
