/** Asks the kernel for the notebook's variables, which come with the view of the chat. */

import type { Store } from "../store.ts";

/** Milliseconds between two questions. */
const LOOK_AGAIN = 500;

/** A function that asks; soon, if it was just done. */
export function lookFor(store: Store, signal: AbortSignal): () => void {
  let looked = -Infinity;
  let later: ReturnType<typeof setTimeout> | undefined;
  signal.addEventListener("abort", () => { clearTimeout(later); });
  return () => {
    later ??= setTimeout(() => {
      later = undefined;
      looked = performance.now();
      void store.intents.send({ kind: "look" }, { signal }).catch(() => undefined);
    }, looked + LOOK_AGAIN - performance.now());
  };
}
