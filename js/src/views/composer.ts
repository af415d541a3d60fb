/** The box to write messages in. Enter sends, Shift+Enter begins a new line, Escape stops the answer, Up edits the last message. */

import { h, icon, setAttribute, setText, show } from "../dom.ts";
import type { Attachment, Variable } from "../protocol.ts";
import { Attachments } from "./attachments.ts";
import { VariableCompletion } from "./variables.ts";

const ARROW_UP = "M8 13V3.5M3.8 7.5 8 3.3l4.2 4.2";
const SQUARE = "M4.5 4.5h7v7h-7z";

export interface ComposerActions {
  /** Resolves when the kernel has accepted the message; throws an error with the reason if it refuses. */
  readonly send: (text: string, attachments: readonly Attachment[]) => Promise<void>;
  readonly stop: () => Promise<void>;
  /** Begins to edit the last message of the user's, if there is one. */
  readonly editLast: () => void;
  /** Asks the kernel for the notebook's variables. */
  readonly look: () => void;
}

export interface ComposerState {
  readonly enabled: boolean;
  readonly running: boolean;
  readonly placeholder: string;
  /** The model's name, for messages. */
  readonly model: string;
  readonly variables: readonly Variable[];
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
  readonly #attachments: Attachments;
  readonly #variables: VariableCompletion;
  #state: ComposerState = { enabled: true, running: false, placeholder: "", model: "", variables: [] };
  #sending = false;
  #again = false;
  #stopping = false;

  constructor(actions: ComposerActions, signal: AbortSignal) {
    this.#actions = actions;
    this.#attachments = new Attachments({
      explain: (text) => { this.note(text, "error"); },
      append: (text) => { this.append(text); },
      changed: () => { this.#draw(); },
      model: () => this.#state.model,
      focus: () => { this.input.focus(); },
    }, signal);
    this.#variables = new VariableCompletion(this.input, actions.look, signal);
    this.node = h(
      "form",
      { class: "mlcw-composer" },
      this.#variables.node,
      this.#attachments.node,
      h("div", { class: "mlcw-box" }, this.#attachments.button, this.#attachments.picker, this.input, this.#stop, this.#send),
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
      if (this.#variables.key(event)) return;
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        void this.#submit();
      } else if (event.key === "ArrowUp" && this.input.value === "" && !event.shiftKey && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        this.#actions.editLast();
      }
    }, { signal });
    this.input.addEventListener("paste", (event) => { this.#attachments.paste(event); }, { signal });
    this.#stop.addEventListener("click", () => void this.stop(), { signal });
    this.#draw();
  }

  update(state: ComposerState): void {
    if (!state.running) this.#stopping = false;
    this.#state = state;
    setAttribute(this.input, "placeholder", state.placeholder);
    this.input.disabled = this.#attachments.button.disabled = !state.enabled;
    this.#variables.update(state.variables);
    this.#draw();
  }

  /** Takes files and cells that are dropped on `target`. */
  takeDropsOn(target: HTMLElement): void {
    this.#attachments.dropOn(target);
  }

  /** Adds a text at the end of the message, on a line of its own. */
  append(text: string): void {
    const { value } = this.input;
    const between = value === "" || value.endsWith("\n") ? "" : "\n";
    this.input.value = value + between + text;
    this.input.focus();
    this.input.setSelectionRange(this.input.value.length, this.input.value.length);
    this.input.dispatchEvent(new Event("input"));
    this.input.scrollTop = this.input.scrollHeight;
  }

  /** Shows a note about sending below the box; "" removes it. */
  note(text: string, kind: "info" | "error" = "info"): void {
    setText(this.#note, text);
    show(this.#note, text !== "");
    this.#note.classList.toggle("mlcw-note-error", kind === "error");
    this.#drawIdle();
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

  /** Whether there is nothing to send. */
  get empty(): boolean {
    return this.#empty;
  }

  /** Sends what is in the box in another way; throws an error with the reason if it is refused. */
  async sendBy(send: ComposerActions["send"]): Promise<void> {
    const text = this.input.value;
    const attachments = this.#attachments.items;
    await send(text, attachments);
    this.#taken(text, attachments);
    this.#fit();
    this.#draw();
  }

  #taken(text: string, attachments: readonly Attachment[]): void {
    if (this.input.value.startsWith(text)) this.input.value = this.input.value.slice(text.length);
    this.#attachments.sent(attachments);
  }

  async #submit(): Promise<void> {
    const text = this.input.value;
    const attachments = this.#attachments.items;
    this.#again = this.#sending; // submitted while another message is being sent: send it afterwards
    if (this.#sending || !this.#state.enabled || this.#empty) return;
    this.#sending = true;
    this.#draw();
    // The text stays in the box until it has been accepted, and so does what is typed meanwhile.
    const taken = await this.#guard(() => this.#actions.send(text, attachments));
    if (taken) this.#taken(text, attachments);
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

  get #empty(): boolean {
    return this.input.value.trim() === "" && this.#attachments.items.length === 0;
  }

  #draw(): void {
    const { enabled, running } = this.#state;
    const empty = this.#empty;
    // While an answer is running, the button stops it, unless there is text to send.
    show(this.#stop, running);
    show(this.#send, !running || !empty);
    this.#stop.disabled = this.#stopping;
    this.#send.disabled = !enabled || empty || this.#sending;
    setAttribute(this.node, "aria-busy", this.#sending ? "true" : null);
    this.#drawIdle();
  }

  /** Marks, for styles/reply.css, that there is nothing to stop and no note. */
  #drawIdle(): void {
    setAttribute(this.node, "data-mlcw-idle", this.#stop.hidden && this.#note.hidden ? "" : null);
  }

  /** Fits the height of the box to its text, up to the limit in the style sheet. */
  #fit(): void {
    this.input.style.height = "auto";
    this.input.style.height = `${this.input.scrollHeight}px`;
  }
}
