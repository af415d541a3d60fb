/** In an empty chat: ways to begin, from the notebook's last error and its data frames. */

import { h, show } from "../dom.ts";
import type { Variable } from "../protocol.ts";
import { describeVariable } from "./variables.ts";

const FRAMES = 2;

export interface Suggestion {
  readonly title: string;
  readonly facts: string;
  /** What is put into the composer. */
  readonly message: string;
}

export function suggestionsFor(variables: readonly Variable[]): Suggestion[] {
  const failed = variables.find(({ name, kind }) => name === "last_error" && kind === "error");
  const frames = variables.filter(({ kind }) => kind === "frame").slice(0, FRAMES);
  return [
    ...(failed && failed.type !== "KeyboardInterrupt"
      ? [{ title: "Explain the last error", facts: failed.type, message: "Explain this error, and say how to fix it: {last_error}" }]
      : []),
    ...frames.map((frame) => ({
      title: `Describe ${frame.name}`,
      facts: describeVariable(frame),
      message: `What does this table show, and what is worth a closer look? {${frame.name}}`,
    })),
  ];
}

export class Suggestions {
  readonly node = h("ul", { class: "mlcw-suggestions", "aria-label": "Suggestions", hidden: true });
  #shown = "";

  /** `begin` puts a message into the composer. */
  constructor(begin: (message: string) => void, signal: AbortSignal) {
    this.node.addEventListener("click", (event) => {
      const button = event.target instanceof Element ? event.target.closest("button") : null;
      if (button) begin(button.dataset["mlcwMessage"] ?? "");
    }, { signal });
  }

  update(variables: readonly Variable[], visible: boolean): void {
    const suggestions = visible ? suggestionsFor(variables) : [];
    show(this.node, suggestions.length > 0);
    const now = JSON.stringify(suggestions);
    if (now === this.#shown) return;
    this.#shown = now;
    this.node.replaceChildren(...suggestions.map(({ title, facts, message }) => {
      const button = h("button", { class: "mlcw-suggestion", type: "button", "data-mlcw-message": message },
        h("span", {}, title), h("span", { class: "mlcw-suggestion-facts" }, facts));
      return h("li", {}, button);
    }));
  }
}
