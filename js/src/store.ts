/**
 * The state of one widget in the page, shared by all its views.
 *
 * It listens to the model, runs the reducer, and notifies the views at most once per animation frame.
 */

import { cellsOf, type Cells } from "./cells.ts";
import { hasControl, watchConnection, type Model } from "./host.ts";
import { IntentSender } from "./intents.ts";
import {
  messageType,
  parseAck,
  parseChat,
  parseChosen,
  parseComparing,
  parseDelta,
  parseEngine,
  parseExport,
  parseLive,
  parseMap,
  parseNotebook,
  parseOptions,
  parseTokens,
  readTrait,
  type Comparing,
  type Engine,
  type Export,
  type MapState,
  type Options,
  type ReplyTokens,
  type Variable,
} from "./protocol.ts";
import { applyDelta, applySnapshot, emptyChat, hasGap, type ChatState } from "./reducer.ts";

/** Milliseconds that text may be missing before a snapshot is asked for. */
const GAP_PATIENCE = 300;

export interface View {
  readonly engine: Engine;
  readonly chat: ChatState;
  readonly options: Options;
  readonly map: MapState;
  /** Of two chats side by side, the index of the one that goes on alone. */
  readonly chosen: number | null;
  readonly comparing: Comparing;
  /** The notebook's variables when they were last asked for by the intent `look`. */
  readonly variables: readonly Variable[];
  /** False for a saved widget whose kernel is gone. */
  readonly connected: boolean;
}

export class Store {
  readonly intents: IntentSender;
  readonly #model: Model;
  readonly #views = new Set<(view: View) => void>();
  readonly #tokens = new Set<(tokens: ReplyTokens) => void>();
  readonly #exports = new Set<(file: Export) => void>();
  #view: View;
  #frame = 0;
  #gapTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(model: Model, signal: AbortSignal) {
    const commId = String(model.get("_comm_id"));
    this.#model = model;
    this.intents = new IntentSender(model, commId);
    this.#view = {
      engine: parseEngine(this.#read("_engine")),
      chat: emptyChat,
      options: parseOptions(this.#read("_options")),
      map: parseMap(this.#read("_map")),
      chosen: parseChosen(this.#read("_chosen")),
      comparing: parseComparing(this.#read("_comparing")),
      variables: [],
      connected: true,
    };
    this.#onChat();
    this.#onLive();
    const events: Readonly<Record<string, (...args: never[]) => void>> = {
      "change:_engine": this.#onEngine,
      "change:_chat": this.#onChat,
      "change:_live": this.#onLive,
      "change:_options": this.#onOptions,
      "change:_map": this.#onMap,
      "change:_chosen": this.#onChosen,
      "change:_comparing": this.#onComparing,
      "msg:custom": this.#onMessage,
    };
    for (const [event, callback] of Object.entries(events)) model.on(event, callback);
    signal.addEventListener("abort", () => {
      for (const [event, callback] of Object.entries(events)) model.off(event, callback);
      clearTimeout(this.#gapTimer);
      cancelAnimationFrame(this.#frame);
      this.#views.clear();
    });
    void watchConnection(model, commId, signal, (connected) => {
      this.#update({ connected });
    });
  }

  /** The cells of the host's notebook; null where it has none. */
  get cells(): Cells | null {
    return cellsOf(this.#model);
  }

  /** Whether intents reach the kernel at any time, even while a cell runs. */
  get direct(): boolean {
    return this.#model.get("_control") === true && hasControl(this.#model);
  }

  get view(): View {
    return this.#view;
  }

  /** Calls back now and after each change, until the signal aborts. */
  subscribe(callback: (view: View) => void, signal: AbortSignal): void {
    this.#views.add(callback);
    signal.addEventListener("abort", () => this.#views.delete(callback));
    callback(this.#view);
  }

  /** Calls back with each conversation that was asked for as a file, until the signal aborts. */
  onExport(callback: (file: Export) => void, signal: AbortSignal): void {
    this.#exports.add(callback);
    signal.addEventListener("abort", () => this.#exports.delete(callback));
  }

  /** Calls back with the tokens of each reply for which they were asked, until the signal aborts. */
  onTokens(callback: (tokens: ReplyTokens) => void, signal: AbortSignal): void {
    this.#tokens.add(callback);
    signal.addEventListener("abort", () => this.#tokens.delete(callback));
  }

  readonly #onEngine = (): void => {
    const engine = parseEngine(this.#read("_engine"));
    if (engine.rev >= this.#view.engine.rev) this.#update({ engine });
  };

  readonly #onChat = (): void => {
    this.#setChat(applySnapshot(this.#view.chat, parseChat(this.#read("_chat"))));
  };

  readonly #onLive = (): void => {
    for (const delta of parseLive(this.#read("_live"))) {
      this.#setChat(applyDelta(this.#view.chat, delta));
    }
  };

  readonly #onOptions = (): void => {
    this.#update({ options: parseOptions(this.#read("_options")) });
  };

  readonly #onMap = (): void => {
    const map = parseMap(this.#read("_map"));
    if (map.rev >= this.#view.map.rev) this.#update({ map });
  };

  readonly #onChosen = (): void => {
    this.#update({ chosen: parseChosen(this.#read("_chosen")) });
  };

  readonly #onComparing = (): void => {
    this.#update({ comparing: parseComparing(this.#read("_comparing")) });
  };

  #read(trait: string): unknown {
    return readTrait(this.#model.get(trait));
  }

  readonly #onMessage = (content: unknown): void => {
    const type = messageType(content);
    if (type === "delta") {
      const delta = parseDelta(content);
      if (delta) this.#setChat(applyDelta(this.#view.chat, delta));
    } else if (type === "ack") {
      const ack = parseAck(content);
      if (ack) this.intents.acknowledge(ack);
    } else if (type === "notebook") {
      this.#update({ variables: parseNotebook(content) });
    } else if (type === "tokens") {
      const tokens = parseTokens(content);
      if (tokens) for (const callback of this.#tokens) callback(tokens);
    } else if (type === "export") {
      const file = parseExport(content);
      if (file) for (const callback of this.#exports) callback(file);
    }
  };

  #setChat(chat: ChatState): void {
    if (chat === this.#view.chat) return;
    this.#update({ chat });
    if (!hasGap(chat)) {
      clearTimeout(this.#gapTimer);
      this.#gapTimer = undefined;
    } else {
      this.#gapTimer ??= setTimeout(() => {
        this.#gapTimer = undefined;
        // The answer is a snapshot. If it gets lost as well, the next delta starts the timer again.
        if (hasGap(this.#view.chat)) void this.intents.send({ kind: "resync" }).catch(() => undefined);
      }, GAP_PATIENCE);
    }
  }

  #update(change: Partial<View>): void {
    this.#view = { ...this.#view, ...change };
    if (this.#frame !== 0) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      for (const callback of this.#views) callback(this.#view);
    });
  }
}
