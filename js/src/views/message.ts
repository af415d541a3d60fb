/** One message of the conversation; nodes stay, only what changed is touched. */

import { h, setAttribute, setText, show } from "../dom.ts";
import { formatDuration, formatRate, formatTokens, joinFacts } from "../format.ts";
import { MarkdownView } from "../markdown/view.ts";
import type { Message, Stats } from "../protocol.ts";

export function statsText(stats: Stats | null): string {
  if (!stats) return "";
  const first = formatDuration(stats.ttftS);
  return joinFacts(
    first && `first token ${first}`,
    formatRate(stats.tokensPerS),
    formatTokens(stats.completionTokens),
  );
}

/** What is to say about a reply beside its text. */
export function stateText(message: Message, modelReady: boolean): string {
  switch (message.status) {
    case "queued":
      return modelReady ? "Queued" : "Waits for the model";
    case "stopped":
      return "Stopped";
    case "done":
      return message.finish === "length" ? "Cut off at the token limit" : "";
    default:
      return "";
  }
}

export class MessageView {
  readonly node: HTMLElement;
  readonly #body = h("div", { class: "mlcw-body" });
  /** What the user wrote is shown as it is, what the model writes as Markdown. */
  readonly #draw: (text: string, complete: boolean) => void;
  readonly #dots = h("div", { class: "mlcw-dots", "aria-hidden": "true" }, h("i"), h("i"), h("i"));
  readonly #error = h("div", { class: "mlcw-error-text" });
  readonly #retry = h("button", { class: "mlcw-link", type: "button" }, "Try again");
  readonly #problem = h("div", { class: "mlcw-problem" }, this.#error, this.#retry);
  readonly #facts = h("div", { class: "mlcw-facts" });
  #shown: Message | null = null;
  #shownReady = false;

  constructor(message: Message, onRetry: (reply: string) => void, signal: AbortSignal) {
    const mine = message.role === "user";
    if (mine) {
      setAttribute(this.#body, "dir", "auto");
      this.#draw = (text) => {
        setText(this.#body, text);
      };
    } else {
      const markdown = new MarkdownView(signal);
      this.#body.append(markdown.node);
      this.#draw = (text, complete) => {
        markdown.update(text, complete);
      };
    }
    this.node = h(
      "li",
      { class: `mlcw-message ${mine ? "mlcw-user" : "mlcw-assistant"}` },
      h("span", { class: "mlcw-sr" }, mine ? "You: " : "Model: "),
      this.#body,
      this.#dots,
      this.#problem,
      this.#facts,
    );
    this.#retry.addEventListener("click", () => { onRetry(message.id); }, { signal });
  }

  update(message: Message, modelReady: boolean): void {
    if (message === this.#shown && modelReady === this.#shownReady) return;
    this.#shown = message;
    this.#shownReady = modelReady;
    this.#draw(message.text, message.status !== "running" && message.status !== "queued");
    show(this.#body, message.text !== "");
    show(this.#dots, message.status === "running" && message.text === "");
    setText(this.#error, message.error?.message ?? "");
    show(this.#problem, message.status === "error");
    const facts = joinFacts(stateText(message, modelReady), statsText(message.stats));
    setText(this.#facts, facts);
    show(this.#facts, facts !== "");
    setAttribute(this.node, "data-mlcw-status", message.status);
    setAttribute(this.node, "aria-busy", message.status === "running" ? "true" : null);
  }
}
