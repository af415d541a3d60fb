/**
 * Delivers intents to the kernel, even while it is running a cell.
 *
 * An intent is sent on the control channel first. If it is not acknowledged in time, it is sent over
 * the widget's comm as well (in a subshell of its own where the host has subshells, and again if
 * that starts later); the kernel recognizes it by its id and accepts it once. If that is not
 * acknowledged either, the kernel is busy with a cell: `onWaiting` is called, and the intent is
 * accepted when the cell ends.
 */

import { uniqueId } from "./ids.ts";
import { sendOnControl, useOwnSubshell, type Model } from "./host.ts";
import type { Ack, Intent } from "./protocol.ts";

/** Milliseconds to wait for an acknowledgement before the next channel is tried. */
const PATIENCE = 500;

export interface Delivery {
  /** Called when the intent has to wait for a running cell. */
  readonly onWaiting?: () => void;
  readonly signal?: AbortSignal;
}

export class IntentSender {
  readonly #model: Model;
  readonly #commId: string;
  readonly #waiting = new Map<string, (ack: Ack) => void>();

  constructor(model: Model, commId: string) {
    this.#model = model;
    this.#commId = commId;
  }

  /** Resolves the `send` that waits for this acknowledgement. */
  acknowledge(ack: Ack): void {
    this.#waiting.get(ack.intent)?.(ack);
  }

  /**
   * Sends an intent; resolves when the kernel has accepted it.
   *
   * @throws an error with the reason if the kernel refuses it, or if the signal aborts first.
   */
  async send(intent: Intent, { onWaiting, signal }: Delivery = {}): Promise<void> {
    const id = uniqueId();
    const content = { type: "intent", id, intent };
    const acknowledged = new Promise<Ack>((resolve, reject) => {
      this.#waiting.set(id, resolve);
      signal?.addEventListener("abort", () => {
        reject(new Error("The view was closed."));
      });
    });
    try {
      const ack = await this.#deliver(content, acknowledged, onWaiting);
      if (ack.error !== null) throw new Error(ack.error);
    } finally {
      this.#waiting.delete(id);
    }
  }

  async #deliver(content: unknown, acknowledged: Promise<Ack>, onWaiting?: () => void): Promise<Ack> {
    const control = this.#model.get("_control") === true;
    if (control && sendOnControl(this.#model, this.#commId, content)) {
      const ack = await within(PATIENCE, acknowledged);
      if (ack) return ack;
    }
    const subshell = await useOwnSubshell(this.#model, this.#commId);
    let sentTo = subshell?.id;
    this.#model.send(content);
    let ack = await within(PATIENCE, acknowledged);
    if (ack === null) onWaiting?.();
    if (subshell === null) return acknowledged;
    while (ack === null) {
      // A subshell that starts late, or again, has not seen what was sent before.
      if (subshell.id !== sentTo) {
        sentTo = subshell.id;
        this.#model.send(content);
      }
      ack = await within(PATIENCE, acknowledged);
    }
    return ack;
  }
}

/** The promise's value, or null if it takes longer. */
async function within<T>(milliseconds: number, promise: Promise<T>): Promise<T | null> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(() => {
      resolve(null);
    }, milliseconds);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
