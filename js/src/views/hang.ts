/** A notice that the worker seems to hang, since when, and a button to restart it. */

import { h, setText, show } from "../dom.ts";
import { formatClock } from "../format.ts";
import type { Engine, Hang, Intent } from "../protocol.ts";

const SILENCE: Readonly<Record<Hang["part"], string>> = {
  worker: "The worker has not answered",
  engine: "The engine has made no progress",
};

export class HangNotice {
  readonly node: HTMLElement;
  readonly #text = h("span", { class: "mlcw-hang-text" });
  readonly #restart = h("button", { class: "mlcw-button", type: "button" }, "Restart worker");
  readonly #line = h("div", { class: "mlcw-hang-line", hidden: true }, this.#text, this.#restart);
  readonly #refusal = h("div", { class: "mlcw-error-text", role: "alert", hidden: true });
  /** For screen readers: announced once, while the visible text goes on counting seconds. */
  readonly #said = h("span", { class: "mlcw-sr", role: "status" });
  #engine: Engine | null = null;
  #hang: Hang | null = null;
  /** Time of the last sign of life, by `performance.now`. */
  #since = 0;
  #ticker: ReturnType<typeof setInterval> | undefined;

  constructor(signal: AbortSignal, send: (intent: Intent) => Promise<void>) {
    this.node = h(
      "div",
      { class: "mlcw-hang" },
      this.#line,
      this.#refusal,
      this.#said,
    );
    this.#restart.addEventListener("click", () => {
      this.#restart.disabled = true;
      this.#refuse("");
      send({ kind: "restart" })
        .catch((error: unknown) => { this.#refuse(error instanceof Error ? error.message : String(error)); })
        .finally(() => { this.#restart.disabled = false; });
    }, { signal });
    signal.addEventListener("abort", () => { clearInterval(this.#ticker); });
  }

  update(engine: Engine, connected: boolean): void {
    const hang = connected ? engine.hang : null;
    if (engine === this.#engine && (hang === null) === (this.#hang === null)) return;
    this.#engine = engine;
    this.#hang = hang;
    clearInterval(this.#ticker);
    show(this.#line, hang !== null);
    this.node.classList.toggle("mlcw-hung", hang !== null);
    setText(this.#said, hang ? `${SILENCE[hang.part]} for a while; it may be hung.` : "");
    if (!hang) {
      this.#refuse("");
      return;
    }
    this.#since = performance.now() - 1000 * hang.seconds;
    this.#tick();
    this.#ticker = setInterval(() => { this.#tick(); }, 1000);
  }

  #tick(): void {
    if (!this.#hang) return;
    const seconds = (performance.now() - this.#since) / 1000;
    setText(this.#text, `${SILENCE[this.#hang.part]} for ${formatClock(seconds)}; it may be hung.`);
  }

  #refuse(why: string): void {
    setText(this.#refusal, why);
    show(this.#refusal, why !== "");
  }
}
