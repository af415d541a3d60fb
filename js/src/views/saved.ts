/** In an empty chat: the offer to go on with the conversation that the saved notebook has for it. */

import { h, setText, show } from "../dom.ts";
import type { Intent } from "../protocol.ts";

export class SavedOffer {
  readonly node: HTMLElement;
  readonly #text = h("span");

  constructor(send: (intent: Intent) => Promise<void>, signal: AbortSignal) {
    const button = h("button", { class: "mlcw-button", type: "button" }, "Continue this chat");
    button.addEventListener("click", () => {
      button.disabled = true;
      send({ kind: "take_up" })
        .catch(() => undefined) // shown below the composer
        .finally(() => { button.disabled = false; });
    }, { signal });
    this.node = h("div", { class: "mlcw-saved", hidden: true }, this.#text, button);
  }

  update(saved: number, connected: boolean): void {
    show(this.node, saved > 0 && connected);
    setText(this.#text, `The saved notebook has a chat of ${String(saved)} ${saved === 1 ? "message" : "messages"} here.`);
  }
}
