/** Asks the user about calls of tools before they are made. */

import { h, setText } from "../dom.ts";
import type { Decision, Question } from "../protocol.ts";

type Decide = (call: number, decision: Decision) => Promise<void>;

const CHOICES: readonly (readonly [Decision, string])[] = [
  ["once", "Allow once"],
  ["always", "Always in this chat"],
  ["never", "Refuse"],
];

/** The questions about one reply's calls. */
export class ApprovalForm {
  readonly node = h("div", { class: "mlcw-approvals" });
  readonly #panels = new Map<number, Panel>();
  readonly #decide: Decide;
  readonly #say: (text: string) => void;
  readonly #signal: AbortSignal;

  constructor(decide: Decide, say: (text: string) => void, signal: AbortSignal) {
    this.#decide = decide;
    this.#say = say;
    this.#signal = signal;
  }

  update(questions: readonly Question[]): void {
    const asked = new Set(questions.map(({ call }) => call));
    for (const [call, panel] of this.#panels) {
      if (asked.has(call)) continue;
      this.#remove(call, panel);
    }
    for (const question of questions) {
      if (this.#panels.has(question.call)) continue;
      const panel = new Panel(question, this.#decide, this.#signal);
      this.#panels.set(question.call, panel);
      this.node.append(panel.node);
      this.#say(`The model wants to call ${question.tool} of ${question.server}. Allow it?`);
    }
  }

  /** Removes a panel; a keyboard user who was in it goes on with the next one, or in the message box. */
  #remove(call: number, panel: Panel): void {
    const focused = panel.node.contains(document.activeElement);
    const chat = panel.node.closest(".mlcw");
    panel.node.remove();
    this.#panels.delete(call);
    if (!focused) return;
    // What would be sent, not a button: a key that is pressed twice, or held, must decide nothing.
    const next = this.node.querySelector<HTMLElement>(".mlcw-approval-sent")
      ?? chat?.querySelector<HTMLElement>(".mlcw-composer textarea");
    next?.focus();
  }
}

class Panel {
  readonly node: HTMLElement;
  readonly #buttons: readonly HTMLButtonElement[];
  readonly #problem = h("span", { class: "mlcw-error-text", role: "alert" });

  constructor({ call, server, tool, arguments: sent }: Question, decide: Decide, signal: AbortSignal) {
    this.#buttons = CHOICES.map(([decision, label]) => {
      const main = decision === "once" ? " mlcw-primary" : "";
      const button = h("button", { class: `mlcw-button${main}`, type: "button" }, label);
      button.addEventListener("click", () => { this.#send(decide(call, decision)); }, { signal });
      return button;
    });
    // The names come from the server: they are text, each in a direction of its own.
    const name = (text: string): HTMLElement => h("bdi", { class: "mlcw-approval-name" }, text);
    this.node = h(
      "section",
      { class: "mlcw-approval", "aria-label": `Allow ${tool}?` },
      h("div", {}, "Allow a call of ", name(tool), " of the server ", name(server), "?"),
      h("pre", { class: "mlcw-approval-sent", tabindex: "0", dir: "ltr", "aria-label": "What is sent" }, sent),
      h("div", { class: "mlcw-approval-row" }, ...this.#buttons),
      this.#problem,
    );
  }

  #send(sending: Promise<void>): void {
    this.#enable(false);
    setText(this.#problem, "");
    sending.catch((error: unknown) => {
      setText(this.#problem, error instanceof Error ? error.message : String(error));
      this.#enable(true);
    });
  }

  #enable(enabled: boolean): void {
    // Not `disabled`, which would drop the focus.
    for (const button of this.#buttons) button.setAttribute("aria-disabled", String(!enabled));
    this.node.classList.toggle("mlcw-decided", !enabled);
  }
}
