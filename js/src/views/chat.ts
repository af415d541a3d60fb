/** The chat: what the engine does, the conversation, and where to write. */

import { Announcer } from "../announce.ts";
import { h, icon, setAttribute, setText, show } from "../dom.ts";
import { modelName } from "../format.ts";
import type { Engine, Intent, Message } from "../protocol.ts";
import { StickyScroll } from "../scroll.ts";
import type { View } from "../store.ts";
import { Composer } from "./composer.ts";
import { hasFailed, isLoading, LoadPanel, phaseText, type RenderProps } from "./load.ts";
import { MessageView } from "./message.ts";

const ARROW_DOWN = "M8 3v9.5M3.8 8.5 8 12.7l4.2-4.2";
const BUSY = "The kernel is busy with a cell; this will be done when it has finished.";

export function renderChat({ store, el, signal }: RenderProps): void {
  const send = (intent: Intent): Promise<void> =>
    store.courier.send(intent, {
      signal,
      onWaiting: () => {
        composer.note(BUSY);
      },
    });
  const retry = (reply: string): void => {
    send({ kind: "retry", reply }).catch((error: unknown) => {
      composer.note(error instanceof Error ? error.message : String(error), "error");
    });
  };

  const dot = h("span", { class: "mlcw-dot", "aria-hidden": "true" });
  const name = h("span", { class: "mlcw-name" });
  const state = h("span", { class: "mlcw-state" });
  const load = new LoadPanel(signal, () => void send({ kind: "cancel_load" }).catch(() => undefined));
  const list = h("ol", { class: "mlcw-list" });
  const welcome = h("div", { class: "mlcw-welcome" });
  const log = h(
    "div",
    { class: "mlcw-log", role: "log", "aria-label": "Conversation", "aria-live": "off", tabindex: "0" },
    welcome,
    list,
  );
  const jump = h(
    "button",
    { class: "mlcw-round mlcw-jump", type: "button", "aria-label": "To the latest message", hidden: true },
    icon(ARROW_DOWN),
  );
  const announcements = h("div", { class: "mlcw-sr", role: "status", "aria-live": "polite" });
  const composer = new Composer(
    {
      send: async (text) => {
        scroll.toEnd();
        await send({ kind: "send", text });
      },
      stop: () => send({ kind: "stop" }),
    },
    signal,
  );
  const root = h(
    "section",
    {
      class: "mlcw mlcw-chat",
      "aria-label": "Chat",
      // Keys pressed here are ours, not the notebook's shortcuts (JupyterLab heeds this).
      "data-lm-suppress-shortcuts": "true",
    },
    h("div", { class: "mlcw-head" }, dot, name, state),
    load.node,
    h("div", { class: "mlcw-scroll" }, log, jump),
    composer.node,
    announcements,
  );
  const announcer = new Announcer(announcements);
  const scroll = new StickyScroll(log, signal, (following) => {
    show(jump, !following);
  });
  jump.addEventListener("click", () => {
    scroll.toEnd();
    composer.input.focus();
  }, { signal });
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.isComposing) void composer.stop();
    event.stopPropagation();
  }, { signal });
  el.append(root);
  // The end of the log stays in sight when the panel or its window is resized, too.
  const resized = new ResizeObserver(() => {
    scroll.grown();
  });
  resized.observe(log);
  signal.addEventListener("abort", () => {
    resized.disconnect();
  });

  const views = new Map<string, MessageView>();
  let first = true;

  const drawMessages = (messages: readonly Message[], ready: boolean): void => {
    const wanted = new Set(messages.map((message) => message.id));
    for (const [id, view] of views) {
      if (wanted.has(id)) continue;
      view.node.remove();
      views.delete(id);
    }
    messages.forEach((message, index) => {
      let view = views.get(message.id);
      if (!view) {
        view = new MessageView(message, retry, signal);
        views.set(message.id, view);
      }
      if (list.children[index] !== view.node) list.insertBefore(view.node, list.children[index] ?? null);
      view.update(message, ready);
    });
    scroll.grown();
  };

  const announce = (messages: readonly Message[]): void => {
    const last = messages.at(-1);
    if (last?.role !== "assistant") return;
    if (first) announcer.skip(last.id, last.text);
    else if (last.status === "error") announcer.say(`Error: ${last.error?.message ?? ""}`);
    else announcer.follow(last.id, last.text, last.status === "done" || last.status === "stopped");
  };

  const update = ({ engine, chat, connected }: View): void => {
    const short = modelName(engine.model);
    const model = short || "the model";
    setAttribute(root, "aria-label", `Chat with ${model}`);
    setAttribute(dot, "data-mlcw-state", connected ? engine.state : "offline");
    setText(name, short || "Chat");
    setAttribute(name, "title", engine.model || null);
    setText(state, connected ? engineText(engine) : "No kernel");
    show(load.node, connected && (isLoading(engine) || hasFailed(engine)));
    load.update(engine, connected);
    const ready = engine.state === "ready";
    show(welcome, chat.messages.length === 0);
    setText(
      welcome,
      connected
        ? "Messages are answered in a background kernel; this notebook stays free."
        : "This chat has no kernel. Run its cell to start it.",
    );
    drawMessages(chat.messages, ready);
    announce(chat.messages);
    const running = chat.messages.some((item) => item.status === "running" || item.status === "queued");
    composer.update({
      enabled: connected && engine.state !== "terminated",
      running: connected && running,
      placeholder: connected ? `Message ${model}` : "Run the cell to continue this chat",
    });
    first = false;
  };
  store.subscribe(update, signal);
}

function engineText(engine: Engine): string {
  switch (engine.state) {
    case "ready":
      return engine.device;
    case "starting":
    case "loading":
      return `${phaseText(engine)} …`;
    case "dead":
      return "The worker stopped";
    case "terminated":
      return "Terminated";
    default:
      return engine.error ? "Not loaded" : "No model is loaded";
  }
}
