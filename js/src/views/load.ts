/** The load panel, used alone in `LoadProgress` and inside the chat while its model loads. */

import { h, icon, keepKeys, setAttribute, setText, show } from "../dom.ts";
import {
  formatBytesOf,
  formatClock,
  formatDuration,
  formatSpeed,
  joinFacts,
  modelName,
} from "../format.ts";
import type { Engine, Intent } from "../protocol.ts";
import type { Store } from "../store.ts";
import { HangNotice } from "./hang.ts";

const CHECK = "M3 8.5 6.5 12 13 4.5";
const CROSS = "M8 4.5v4.2M8 11.4v.1";

const PHASES: Readonly<Record<string, string>> = {
  resolve: "Finding the model",
  download: "Downloading",
  convert: "Converting weights",
  verify: "Checking files",
  compile: "Compiling",
  load: "Loading weights",
  "warm up": "Warming up",
};

export interface RenderProps {
  readonly store: Store;
  readonly el: HTMLElement;
  readonly signal: AbortSignal;
}

export function isLoading(engine: Engine): boolean {
  return engine.state === "starting" || engine.state === "loading";
}

/** Whether a load failed or the worker died. */
export function hasFailed(engine: Engine): boolean {
  return engine.error !== null && !isLoading(engine) && engine.state !== "ready";
}

/** Whether a load failed and left the model that was loaded before. */
export function wasRefused(engine: Engine): boolean {
  return engine.failed !== null && !isLoading(engine) && !hasFailed(engine);
}

/** What the loaded models cannot do, such as chats; empty if they are as usual. */
function warningText(engine: Engine): string {
  return engine.state === "ready" && !wasRefused(engine) ? (engine.progress?.warning ?? "") : "";
}

export function phaseText(engine: Engine): string {
  if (engine.state === "starting") return "Starting the worker";
  if (engine.progress === null) return "Loading";
  return PHASES[engine.progress.phase] ?? (engine.progress.phase || "Loading");
}

export function renderLoadProgress({ store, el, signal }: RenderProps): void {
  const panel = new LoadPanel(signal, (intent) => store.intents.send(intent, { signal }));
  const hang = new HangNotice(signal, (intent) => store.intents.send(intent, { signal }));
  panel.node.classList.add("mlcw");
  panel.node.append(hang.node);
  el.append(panel.node);
  store.subscribe(({ engine, connected }) => {
    panel.update(engine, connected);
    hang.update(engine, connected);
  }, signal);
}

export class LoadPanel {
  readonly node: HTMLElement;
  readonly #mark = h("span", { class: "mlcw-load-mark" });
  readonly #title = h("span", { class: "mlcw-load-title" });
  readonly #phase = h("span", { class: "mlcw-load-phase" });
  readonly #percent = h("span", { class: "mlcw-load-percent" });
  readonly #fill = h("div", { class: "mlcw-bar-fill" });
  readonly #bar = h("div", { class: "mlcw-bar", role: "progressbar" }, this.#fill);
  readonly #facts = h("span", { class: "mlcw-load-facts" });
  readonly #clock = h("span", { class: "mlcw-load-clock" });
  readonly #cancel = h("button", { class: "mlcw-link", type: "button" }, "Cancel");
  readonly #below = h("div", { class: "mlcw-load-below" }, this.#facts, this.#clock, this.#cancel);
  readonly #error = h("div", { class: "mlcw-error-text" });
  readonly #warning = h("div", { class: "mlcw-load-warning" });
  readonly #retry = h("button", { class: "mlcw-button", type: "button" }, "Try again");
  readonly #dismiss = h("button", { class: "mlcw-button", type: "button" }, "Dismiss");
  readonly #live = h("div", { class: "mlcw-sr", role: "status" });
  #engine: Engine | null = null;
  /** The notice that the reader has dismissed. */
  #dismissed = "";
  #connected = true;
  /** Time of the latest report, by `performance.now`; the clock runs on between reports. */
  #reportedAt = 0;

  constructor(signal: AbortSignal, send: (intent: Intent) => Promise<void>) {
    const head = h(
      "div",
      { class: "mlcw-load-head" },
      this.#mark,
      this.#title,
      this.#phase,
      this.#percent,
    );
    this.node = h(
      "div",
      { class: "mlcw-load" },
      head,
      this.#bar,
      this.#below,
      this.#error,
      this.#warning,
      this.#retry,
      this.#dismiss,
      this.#live,
    );
    keepKeys(this.node, signal);
    setAttribute(this.#bar, "aria-valuemin", "0");
    setAttribute(this.#bar, "aria-valuemax", "100");
    const act = (button: HTMLButtonElement, intent: Intent): void => {
      button.addEventListener("click", () => {
        button.disabled = true;
        send(intent)
          .catch((error: unknown) => {
            setText(this.#error, error instanceof Error ? error.message : String(error));
            show(this.#error, true);
          })
          .finally(() => { button.disabled = false; });
      }, { signal });
    };
    act(this.#cancel, { kind: "cancel_load" });
    act(this.#retry, { kind: "load", model: null });
    this.#dismiss.addEventListener("click", () => {
      this.#dismissed = noticeOf(this.#engine);
      show(this.node, false);
    }, { signal });
    const ticker = setInterval(() => {
      this.#tick();
    }, 500);
    signal.addEventListener("abort", () => {
      clearInterval(ticker);
    });
  }

  /** Whether there is a notice of a failed load, or of what models cannot do, that was not dismissed. */
  notices(engine: Engine): boolean {
    const notice = noticeOf(engine);
    return notice !== "" && notice !== this.#dismissed;
  }

  update(engine: Engine, connected: boolean): void {
    if (engine === this.#engine && connected === this.#connected) return;
    if (engine !== this.#engine) this.#reportedAt = performance.now();
    this.#engine = engine;
    this.#connected = connected;
    const loading = isLoading(engine);
    const refused = wasRefused(engine);
    const failed = hasFailed(engine) || refused;
    const warning = warningText(engine);
    if (noticeOf(engine) === "") this.#dismissed = "";
    const ready = engine.state === "ready" && !refused;
    const kind = failed ? "failed" : ready ? "ready" : loading ? "loading" : "idle";
    if (this.node.dataset["mlcwState"] !== kind) {
      this.node.dataset["mlcwState"] = kind;
      this.#mark.replaceChildren(...(ready ? [icon(CHECK)] : failed ? [icon(CROSS)] : []));
    }
    const name = modelName(refused ? (engine.failed?.model ?? "") : engine.model) || "the model";
    const sentence = this.#sentence(kind, name);
    setText(this.#title, kind === "loading" ? modelName(engine.model) || "Model" : sentence);
    setAttribute(this.#title, "title", engine.model || null);
    setText(this.#phase, loading ? phaseText(engine) : "");
    this.#drawBar(engine, loading, name);
    this.#drawBelow(engine, kind);
    setText(this.#error, failed ? failureText(engine) : "");
    show(this.#error, failed);
    setText(this.#warning, warning);
    show(this.#warning, warning !== "");
    show(this.#dismiss, noticeOf(engine) !== "" && this.node.parentElement?.classList.contains("mlcw-chat") === true);
    setText(this.#retry, engine.unloaded ? `Load ${name}` : "Try again");
    const again = (failed && !refused) || engine.unloaded;
    show(this.#retry, again && connected && engine.model !== "" && engine.state !== "terminated");
    show(this.#cancel, loading && connected && engine.state === "loading");
    // Announce once per phase; the bar itself has the figures.
    const end = warning ? `${sentence}. ${warning}` : sentence;
    setText(this.#live, loading ? `${name}: ${phaseText(engine)}` : end);
  }

  #sentence(kind: string, name: string): string {
    const state = this.#engine?.state;
    if (kind === "ready") return `${name} is ready`;
    const why = this.#engine?.error?.type;
    // An engine whose load failed is terminated as well; the reason of the failure says more.
    if (state === "terminated" && (kind !== "failed" || why === "EngineTerminatedError")) {
      return "The engine was terminated";
    }
    if (kind === "failed") {
      switch ((this.#engine?.error ?? this.#engine?.failed?.error)?.type) {
        case "LoadCancelledError":
          return `Loading ${name} was cancelled`;
        case "WorkerStartError":
          return "The worker did not start";
        case "EngineDeadError":
          return "The worker stopped";
        default:
          return `Could not load ${name}`;
      }
    }
    if (state === "dead") return "The worker stopped";
    return kind === "idle" ? "No model is loaded" : `Loading ${name}`;
  }

  #drawBar(engine: Engine, loading: boolean, name: string): void {
    show(this.#bar, loading);
    const known = engine.progress !== null && engine.state === "loading";
    const share = engine.progress?.progress ?? 0;
    const percent = Math.floor(share * 100);
    setText(this.#percent, loading && known ? `${percent} %` : "");
    this.#bar.classList.toggle("mlcw-bar-unknown", !known);
    this.#fill.style.setProperty("--mlcw-share", String(known ? share : 0));
    setAttribute(this.#bar, "aria-label", `Loading ${name}`);
    setAttribute(this.#bar, "aria-valuenow", known ? String(percent) : null);
    setAttribute(this.#bar, "aria-valuetext", known ? `${percent} %, ${phaseText(engine)}` : null);
  }

  #drawBelow(engine: Engine, kind: string): void {
    const { progress } = engine;
    let facts = "";
    if (kind === "loading" && progress) {
      const left = formatDuration(progress.etaS);
      facts = joinFacts(
        formatBytesOf(progress.bytesDone, progress.bytesTotal),
        formatSpeed(progress.bytesPerS),
        left && `${left} left`,
      );
    } else if (kind === "ready") {
      facts = joinFacts(
        progress ? `loaded in ${formatDuration(progress.elapsed)}` : "",
        engine.gpu?.name ?? engine.device,
      );
    }
    setText(this.#facts, facts);
    show(this.#below, kind === "loading" || facts !== "");
    this.#tick();
  }

  #tick(): void {
    const engine = this.#engine;
    if (!engine || !isLoading(engine) || !engine.progress || !this.#connected) {
      setText(this.#clock, "");
      return;
    }
    const since = (performance.now() - this.#reportedAt) / 1000;
    setText(this.#clock, formatClock(engine.progress.elapsed + since));
  }
}

/** Tells notices apart: of a failed load that left the model as it was, or of what models cannot do. */
function noticeOf(engine: Engine | null): string {
  if (!engine) return "";
  if (!wasRefused(engine)) return warningText(engine);
  return `${engine.failed?.model ?? ""}\n${engine.failed?.error.message ?? ""}`;
}

/** Why a load failed, and what is loaded in spite of it. */
function failureText(engine: Engine): string {
  if (!wasRefused(engine)) return engine.error?.message ?? "";
  const stays = modelName(engine.model);
  return `${engine.failed?.error.message ?? ""}${stays ? ` ${stays} stays loaded.` : ""}`;
}
