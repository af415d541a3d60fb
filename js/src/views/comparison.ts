/** Shows the two chats in which a chat's answers are compared in place of it, until one is kept. */

import type { Store } from "../store.ts";
import { renderCompare } from "./compare.ts";
import type { RenderProps } from "./load.ts";

/** @param storesOf Finds the stores of widgets by their models' ids. */
export function showComparisons(
  { store, el, signal }: RenderProps,
  storesOf: (ids: readonly string[], signal: AbortSignal) => Promise<readonly Store[]>,
): void {
  const chat = el.querySelector<HTMLElement>(".mlcw-chat");
  let shown = "";
  let current: AbortController | null = null;
  let box: HTMLElement | null = null;
  const focus = (inside: HTMLElement): void => {
    inside.querySelector<HTMLElement>("textarea.mlcw-input")?.focus();
  };
  const end = (): void => {
    current?.abort();
    const hadFocus = box?.contains(document.activeElement) ?? false;
    box?.remove();
    box = current = null;
    if (!chat) return;
    chat.hidden = false;
    if (hadFocus) focus(chat);
  };
  store.subscribe(({ comparing, connected }) => {
    const ids = connected ? comparing.chats : [];
    if (ids.join() === shown) return;
    shown = ids.join();
    end();
    if (ids.length === 0) return;
    const controller = (current = new AbortController());
    storesOf(ids, controller.signal).then((chats) => {
      if (controller.signal.aborted || !chat) return;
      const hadFocus = chat.contains(document.activeElement);
      box = document.createElement("div");
      el.append(box);
      renderCompare({ store, chats, el: box, signal: controller.signal, ofChat: true });
      chat.hidden = true;
      if (hadFocus) focus(box);
    }).catch(() => undefined); // the chat stays in view
  }, signal);
  signal.addEventListener("abort", () => { current?.abort(); });
}
