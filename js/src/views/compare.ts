/**
 * Two chats side by side, with one box to write in: each message goes to both, until one is chosen,
 * or, where they compare answers of a chat, until one is kept.
 */

import { h, keepKeys, setAttribute, setText, show } from "../dom.ts";
import { joinFacts, modelName } from "../format.ts";
import type { Intent } from "../protocol.ts";
import { Room } from "../room.ts";
import type { Store, View } from "../store.ts";
import { iconButton, ICONS } from "./buttons.ts";
import { BUSY, renderChat, type Chat } from "./chat.ts";
import { Composer } from "./composer.ts";
import { fullWindowButton } from "./full-window.ts";
import type { RenderProps } from "./load.ts";
import { lookFor } from "./look.ts";
import { describeSettings } from "./settings.ts";

export interface CompareProps extends RenderProps {
  /** The two chats. */
  readonly chats: readonly Store[];
  /** Whether they compare answers of the chat whose store this is. */
  readonly ofChat?: boolean;
}

const isRunning = ({ chat, connected }: View): boolean =>
  connected && chat.messages.some(({ status }) => status === "running" || status === "queued");

const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** One of the chats, below a line with what sets it apart from the other, Stop, and the choice. */
class Column {
  readonly node: HTMLElement;
  readonly chat: Chat;
  readonly store: Store;
  readonly #name: string;
  readonly #ofChat: boolean;
  readonly #label = h("span", { class: "mlcw-column-label" });
  readonly #note = h("div", { class: "mlcw-note mlcw-note-error", role: "status", hidden: true });
  readonly #stop: HTMLButtonElement;
  readonly #choose: HTMLButtonElement;

  constructor(
    name: string,
    store: Store,
    { composer, room, ofChat }: { readonly composer: Composer; readonly room: Room; readonly ofChat: boolean },
    choose: () => void,
    signal: AbortSignal,
  ) {
    this.#name = name;
    this.#ofChat = ofChat;
    this.store = store;
    this.#stop = h("button", { class: "mlcw-button", type: "button" }, "Stop");
    setAttribute(this.#stop, "aria-label", `Stop ${name}`);
    this.#stop.addEventListener("click", () => { void this.send({ kind: "stop" }, signal); }, { signal });
    this.#choose = h("button", { class: "mlcw-button", type: "button" });
    this.#choose.addEventListener("click", choose, { signal });
    this.node = h("div", { class: "mlcw-column" },
      h("div", { class: "mlcw-column-head" }, h("strong", {}, name), this.#label, this.#stop, this.#choose),
      this.#note);
    this.chat = renderChat({ store, el: this.node, signal }, { name, composer, room, ofChat });
  }

  /** Sends an intent to this chat; returns why it was refused, or "". */
  async send(intent: Intent, signal: AbortSignal, onWaiting?: () => void): Promise<string> {
    let reason = "";
    try {
      await this.store.intents.send(intent, { signal, ...(onWaiting && { onWaiting }) });
    } catch (error) {
      reason = reasonOf(error);
    }
    setText(this.#note, reason);
    show(this.#note, reason !== "");
    return reason;
  }

  update(other: View, chosen: boolean, hidden: boolean, connected: boolean): void {
    const { view } = this.store;
    show(this.node, !hidden);
    setText(this.#label, describeSettings(view.options, other.options));
    show(this.#stop, isRunning(view));
    show(this.#choose, connected && (chosen || view.chat.messages.length > 0) && !(this.#ofChat && isRunning(view)));
    setText(this.#choose, this.#ofChat ? `Keep ${this.#name}` : chosen ? "Show both again" : `Continue with ${this.#name}`);
  }
}

export function renderCompare({ store, chats, el, signal, ofChat = false }: CompareProps): void {
  const title = ofChat ? "Keep the better answer" : "Two answers to each message";
  let chosen: number | null = null;
  const columns: Column[] = [];
  /** The chats that a message goes to. */
  const asked = (): Column[] => columns.filter((_, index) => chosen === null || chosen === index);
  /** Sends an intent to these chats; throws an error with the reason if all refuse it. */
  const sendToAll = async (intent: Intent): Promise<void> => {
    const busy = (): void => { composer.note(BUSY); };
    const reasons = await Promise.all(asked().map((column) => column.send(intent, signal, busy)));
    if (reasons.every((reason) => reason !== "")) throw new Error(reasons[0]);
  };
  const first = chats[0];
  const composer = new Composer({
    send: (text, attachments) => {
      for (const { chat } of asked()) chat.toEnd();
      return sendToAll(attachments.length > 0 ? { kind: "send", text, attachments } : { kind: "send", text });
    },
    stop: () => sendToAll({ kind: "stop" }),
    editLast: () => undefined, // each chat has an Edit of its own
    look: first ? lookFor(first, signal) : () => undefined,
  }, signal);
  const heading = h("span", { class: "mlcw-name" }, title);
  const anew = iconButton(ICONS.plus, "New chat", () => {
    composer.input.focus();
    void sendToAll({ kind: "new" }).catch(() => undefined); // the columns say why not
  }, signal);
  const back = iconButton(ICONS.close, "Back to the chat, without these answers", () => {
    void store.intents.send({ kind: "leave" }, { signal })
      .catch((error: unknown) => { composer.note(reasonOf(error), "error"); });
  }, signal);
  const tools = h("div", { class: "mlcw-head-tools" }, ...(ofChat ? [] : [anew]));
  const row = h("div", { class: "mlcw-columns-row" });
  const root = h("section", { class: "mlcw mlcw-compare", "aria-label": "Two chats side by side" },
    h("div", { class: "mlcw-head" }, h("div", { class: "mlcw-head-row" }, heading, tools)),
    h("div", { class: "mlcw-columns" }, row),
    composer.node);
  const full = fullWindowButton(root, signal);
  if (full) tools.append(full);
  if (ofChat) tools.append(back);
  const room = new Room(root, composer.node, signal);
  for (const [index, chat] of chats.entries()) {
    const choose = (): void => {
      const intent: Intent = ofChat ? { kind: "keep", chat: index } : { kind: "choose", chat: chosen === null ? index : null };
      void store.intents.send(intent, { signal })
        .catch((error: unknown) => { composer.note(reasonOf(error), "error"); });
    };
    const column = new Column("AB"[index] ?? "", chat, { composer, room, ofChat }, choose, signal);
    columns.push(column);
    row.append(column.node);
  }
  root.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Escape" && !event.isComposing) void composer.stop();
  }, { signal });
  composer.takeDropsOn(root);
  keepKeys(root, signal);
  el.append(root);

  const update = (): void => {
    chosen = store.view.chosen;
    const views = columns.map((column) => column.store.view);
    columns.forEach((column, index) => {
      const other = views[1 - index];
      if (other) column.update(other, chosen === index, chosen !== null && chosen !== index, store.view.connected);
    });
    setText(heading, chosen === null ? title : `Continued with ${"AB"[chosen] ?? ""}`);
    const at = asked().map((column) => column.store.view);
    const models = new Set(at.map(({ engine }) => modelName(engine.model) || "the model"));
    show(anew, at.some(({ chat }) => chat.messages.length > 0));
    composer.update({
      enabled: at.some(({ connected, engine }) => connected && engine.state !== "terminated"),
      running: at.some(isRunning),
      placeholder: at.some(({ connected }) => connected) ? `Message ${models.size > 1 ? "both models" : [...models].join("")}` : "Run the cell to continue these chats",
      model: joinFacts(...models),
      variables: views[0]?.variables ?? [],
    });
  };
  store.subscribe(update, signal);
  for (const chat of chats) chat.subscribe(update, signal);
}
