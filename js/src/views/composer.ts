/** The box to write messages in. Enter sends, Shift+Enter begins a new line, Escape stops the answer, Up edits the last message. */

import { h, icon, setAttribute, setText, show } from "../dom.ts";

const ARROW_UP = "M8 13V3.5M3.8 7.5 8 3.3l4.2 4.2";
const SQUARE = "M4.5 4.5h7v7h-7z";

export interface ComposerActions {
  /** Resolves when the kernel has accepted the message; throws an error with the reason if it refuses. */
  readonly send: (text: string) => Promise<void>;
  readonly stop: () => Promise<void>;
  /** Begins to edit the last message of the user's, if there is one. */
  readonly editLast: () => void;
}

export interface ComposerState {
  readonly enabled: boolean;
  readonly running: boolean;
  readonly placeholder: string;
}

export class Composer {
  readonly node: HTMLFormElement;
  readonly input = h("textarea", {
    class: "mlcw-input",
    rows: "1",
    "aria-label": "Message",
    dir: "auto",
    spellcheck: "true",
  });
  readonly #send = h(
    "button",
    { class: "mlcw-round mlcw-send", type: "submit", "aria-label": "Send", title: "Send (Enter)" },
    icon(ARROW_UP),
  );
  readonly #stop = h(
    "button",
    { class: "mlcw-round mlcw-stop", type: "button", "aria-label": "Stop", title: "Stop (Esc)" },
    icon(SQUARE, "fill"),
  );
  readonly #note = h("div", { class: "mlcw-note", role: "status", hidden: true });
  readonly #actions: ComposerActions;
  #state: ComposerState = { enabled: true, running: false, placeholder: "" };
  #sending = false;
  #again = false;
  #stopping = false;

  constructor(actions: ComposerActions, signal: AbortSignal) {
    this.#actions = actions;
    this.node = h(
      "form",
      { class: "mlcw-composer" },
      h("div", { class: "mlcw-box" }, this.input, this.#stop, this.#send),
      this.#note,
    );
    this.node.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#submit();
    }, { signal });
    this.input.addEventListener("input", () => {
      this.#fit();
      this.#draw();
    }, { signal });
    this.input.addEventListener("keydown", (event) => {
      // While an input method is composing, Enter belongs to it. Safari shows that only by key code 229.
      if (event.isComposing || event.keyCode === 229) return; // eslint-disable-line @typescript-eslint/no-deprecated
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        void this.#submit();
      } else if (event.key === "ArrowUp" && this.input.value === "" && !event.shiftKey && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        this.#actions.editLast();
      }
    }, { signal });
    this.#stop.addEventListener("click", () => void this.stop(), { signal });
    this.#draw();
  }

  update(state: ComposerState): void {
    if (!state.running) this.#stopping = false;
    this.#state = state;
    setAttribute(this.input, "placeholder", state.placeholder);
    this.input.disabled = !state.enabled;
    this.#draw();
  }

  /** Shows a note about sending below the box; "" removes it. */
  note(text: string, kind: "info" | "error" = "info"): void {
    setText(this.#note, text);
    show(this.#note, text !== "");
    this.#note.classList.toggle("mlcw-note-error", kind === "error");
  }

  async stop(): Promise<void> {
    if (!this.#state.running || this.#stopping) return;
    this.#stopping = true;
    this.#draw();
    const hadFocus = this.#stop.matches(":focus");
    await this.#guard(this.#actions.stop);
    this.#stopping = false;
    this.#draw();
    if (hadFocus) this.input.focus();
  }

  async #submit(): Promise<void> {
    const text = this.input.value;
    this.#again = this.#sending; // submitted while another message is being sent: send it afterwards
    if (this.#sending || !this.#state.enabled || text.trim() === "") return;
    this.#sending = true;
    this.#draw();
    // The text stays in the box until it has been accepted, and so does what is typed meanwhile.
    const taken = await this.#guard(() => this.#actions.send(text));
    if (taken && this.input.value.startsWith(text)) {
      this.input.value = this.input.value.slice(text.length);
    }
    this.#sending = false;
    this.#fit();
    this.#draw();
    if (taken && this.#again) void this.#submit();
  }

  async #guard(action: () => Promise<void>): Promise<boolean> {
    try {
      await action();
      this.note("");
      return true;
    } catch (error) {
      this.note(error instanceof Error ? error.message : String(error), "error");
      return false;
    }
  }

  #draw(): void {
    const { enabled, running } = this.#state;
    const empty = this.input.value.trim() === "";
    // While an answer is running, the button stops it, unless there is text to send.
    show(this.#stop, running);
    show(this.#send, !running || !empty);
    this.#stop.disabled = this.#stopping;
    this.#send.disabled = !enabled || empty || this.#sending;
    setAttribute(this.node, "aria-busy", this.#sending ? "true" : null);
  }

  /** Fits the height of the box to its text, up to the limit in the style sheet. */
  #fit(): void {
    this.input.style.height = "auto";
    this.input.style.height = `${this.input.scrollHeight}px`;
  }
}
