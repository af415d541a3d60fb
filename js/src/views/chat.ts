/** The chat view: the state of the engine, the conversation, and the box to write in. */

import { Announcer } from "../announce.ts";
import { h, icon, keepKeys, setAttribute, setText, show } from "../dom.ts";
import { formatBytes, formatCount, formatPercent, joinFacts, modelName } from "../format.ts";
import type { Engine, Intent, Message } from "../protocol.ts";
import { Room } from "../room.ts";
import { StickyScroll } from "../scroll.ts";
import type { View } from "../store.ts";
import { iconButton, ICONS } from "./buttons.ts";
import { bindCells } from "./cell-actions.ts";
import { CompareForm } from "./compare-form.ts";
import { Composer } from "./composer.ts";
import { download } from "./download.ts";
import { fullWindowButton } from "./full-window.ts";
import { HangNotice } from "./hang.ts";
import { hasFailed, isLoading, LoadPanel, phaseText, type RenderProps } from "./load.ts";
import { lookFor } from "./look.ts";
import { MessageView } from "./message.ts";
import { quotation, quoteButton } from "./quote.ts";
import { SavedOffer } from "./saved.ts";
import { ChatSearch } from "./search.ts";
import { SettingsPanel } from "./settings.ts";
import { Suggestions } from "./suggestions.ts";
import { TitleView } from "./title.ts";

export const BUSY = "The kernel is running a cell. Your request will be handled when the cell has finished.";
const INDIRECT = "This notebook cannot reach the chat while a cell is running: Stop takes effect when the cell has finished.";

/** What a chat shares with the one beside it, and what the two are called. */
export interface Shared {
  readonly name: string;
  readonly composer: Composer;
  readonly room: Room;
  /** Whether both are copies of a chat, which has the title, the search and Save itself. */
  readonly ofChat: boolean;
}

export interface Chat {
  /** Shows the end of the conversation, and follows it. */
  readonly toEnd: () => void;
}

export function renderChat({ store, el, signal }: RenderProps, shared?: Shared): Chat {
  const send = (intent: Intent): Promise<void> =>
    store.intents.send(intent, {
      signal,
      onWaiting: () => {
        composer.note(BUSY);
      },
    });
  /** Sends an intent; if it is refused, the reason is shown below the composer. */
  const sendOrExplain = async (intent: Intent): Promise<void> => {
    try {
      if (intent.kind === "retry" || intent.kind === "edit") scroll.toEnd();
      await send(intent);
      composer.note("");
    } catch (error) {
      composer.note(error instanceof Error ? error.message : String(error), "error");
      throw error;
    }
  };

  const look = lookFor(store, signal);
  const dot = h("span", { class: "mlcw-dot", "aria-hidden": "true" });
  const name = h("span", { class: "mlcw-name" });
  const state = h("span", { class: "mlcw-state" });
  const context = h("span", { class: "mlcw-context" });
  const settings = new SettingsPanel(send, signal);
  const toggle = iconButton(ICONS.settings, "Settings", () => {
    if (form.visible) closeForm();
    settings.toggle();
    drawLoad();
    setAttribute(toggle, "aria-expanded", String(settings.visible));
  }, signal);
  setAttribute(toggle, "aria-expanded", "false");
  const form = new CompareForm(async (compared) => {
    const intent = { kind: "compare", ...compared } as const;
    if (composer.empty) await send(intent);
    else await composer.sendBy((text, attachments) => send({ ...intent, text, attachments }));
    if (form.node.contains(document.activeElement)) composer.input.focus(); // it goes with the form
    closeForm();
  }, () => { closeForm(); compare.focus(); }, signal);
  const closeForm = (): void => {
    form.close();
    setAttribute(compare, "aria-expanded", "false");
  };
  const compare = iconButton(ICONS.columns, "Compare…", () => {
    if (form.visible) {
      closeForm();
      return;
    }
    if (settings.visible) toggle.click();
    drawForm();
    form.open(settings.node);
    setAttribute(compare, "aria-expanded", "true");
  }, signal);
  setAttribute(compare, "aria-expanded", "false");
  /** Says what would be answered twice. */
  const drawForm = (): void => {
    const { options, engine, chat } = store.view;
    const asked = chat.messages.some(({ role }) => role === "user");
    form.update(options, engine, !composer.empty ? "The message in the box goes to both."
      : asked ? "Your last message will be answered again, beside its present answer." : "");
  };
  let exporting = false;
  store.onExport((file) => {
    if (exporting) download(file, store.view.chat.title); // other views of this chat hear of it, too
    exporting = false;
  }, signal);
  const save = iconButton(ICONS.save, "Save as Markdown", () => {
    exporting = true;
    void sendOrExplain({ kind: "export", format: "md" }).catch(() => { exporting = false; });
  }, signal);
  const anew = iconButton(ICONS.plus, "New chat", () => {
    composer.input.focus();
    void sendOrExplain({ kind: "new" }).catch(() => undefined);
  }, signal);
  const earlier = h("button", { class: "mlcw-link mlcw-earlier", type: "button", hidden: true }, "Back to the earlier chat");
  earlier.addEventListener("click", () => {
    const message = store.view.chat.earlier;
    if (message !== null) void sendOrExplain({ kind: "select", message }).catch(() => undefined);
    composer.input.focus();
  }, { signal });
  const title = new TitleView((text) => sendOrExplain({ kind: "rename", title: text }), signal);
  const load = new LoadPanel(signal, send);
  const hang = new HangNotice(signal, send);
  const list = h("ol", { class: "mlcw-list" });
  const welcome = h("div", { class: "mlcw-welcome" });
  const suggestions = new Suggestions((message) => { composer.append(message); }, signal);
  const search = new ChatSearch(list, signal);
  const saved = new SavedOffer(sendOrExplain, signal);
  const log = h(
    "div",
    { class: "mlcw-log", role: "log", "aria-label": "Conversation", "aria-live": "off", tabindex: "0" },
    welcome,
    suggestions.node,
    saved.node,
    earlier,
    list,
  );
  const jump = h(
    "button",
    { class: "mlcw-jump", type: "button", "aria-label": "Jump to latest", title: "Jump to latest", hidden: true },
    icon(ICONS.down),
    h("span", {}, "Latest"),
  );
  const frame = h("div", { class: "mlcw-scroll" }, log, jump);
  quoteButton(frame, log, (text) => { composer.append(`${quotation(text)}\n\n`); }, signal);
  const announcements = h("div", { class: "mlcw-sr", role: "status", "aria-live": "polite" });
  const composer = shared?.composer ?? new Composer(
    {
      send: async (text, attachments) => {
        scroll.toEnd();
        await send(attachments.length > 0 ? { kind: "send", text, attachments } : { kind: "send", text });
      },
      look,
      stop: () => send({ kind: "stop" }),
      editLast: () => {
        const mine = store.view.chat.messages.findLast((message) => message.role === "user");
        views.get(mine?.id ?? "")?.edit();
      },
    },
    signal,
  );
  const root = h(
    "section",
    {
      class: "mlcw mlcw-chat",
      "aria-label": "Chat",
    },
    h("div", { class: "mlcw-head" }, h("div", { class: "mlcw-head-row" },
      title.node,
      h("div", { class: "mlcw-about" }, dot, name, state, context),
      h("div", { class: "mlcw-head-tools" }, ...(shared?.ofChat ? [] : [search.button]), ...(shared ? [] : [compare, anew]), ...(shared?.ofChat ? [] : [save]), toggle))),
    settings.node,
    search.node,
    load.node,
    hang.node,
    frame,
    ...(shared ? [] : [composer.node]),
    announcements,
  );
  const full = shared ? null : fullWindowButton(root, signal);
  if (full) toggle.before(full);
  const room = shared?.room ?? new Room(root, composer.node, signal);
  const announcer = new Announcer(announcements);
  const scroll = new StickyScroll(log, signal, (following) => {
    show(jump, !following);
  });
  jump.addEventListener("click", () => {
    scroll.toEnd();
    composer.input.focus();
  }, { signal });
  root.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key !== "Escape" || event.isComposing) return;
    if (settings.visible && event.target instanceof Node && settings.node.contains(event.target)) {
      toggle.click();
      toggle.focus();
    } else void composer.stop();
  }, { signal });
  // What is at hand may have changed whenever somebody turns to an empty chat.
  for (const event of ["focusin", "pointerenter"] as const) {
    root.addEventListener(event, () => {
      if (store.view.connected && store.view.chat.messages.length === 0) look();
    }, { signal });
  }
  if (!shared) composer.takeDropsOn(root);
  composer.input.addEventListener("input", () => { if (form.visible) drawForm(); }, { signal });
  keepKeys(root, signal);
  bindCells(root, store.cells, signal);
  el.append(root);
  // Keep the end of the log in view when the panel or its window is resized.
  const resized = new ResizeObserver(() => {
    scroll.grown();
  });
  resized.observe(log);
  signal.addEventListener("abort", () => {
    resized.disconnect();
  });

  const views = new Map<string, MessageView>();
  let first = true;

  store.onTokens(({ reply, tokens }) => { views.get(reply)?.showTokens(tokens); }, signal);

  const say = (text: string): void => { announcer.say(text); };

  const drawMessages = (messages: readonly Message[], { engine, connected }: View): void => {
    const modelReady = engine.state === "ready";
    const wanted = new Set(messages.map((message) => message.id));
    for (const [id, view] of views) {
      if (wanted.has(id)) continue;
      if (view.node.contains(document.activeElement)) log.focus(); // otherwise the page's body would get it
      view.node.remove();
      views.delete(id);
    }
    messages.forEach((message, index) => {
      let view = views.get(message.id);
      if (!view) {
        view = new MessageView(message, { send: sendOrExplain, say }, signal);
        views.set(message.id, view);
      }
      if (list.children[index] !== view.node) list.insertBefore(view.node, list.children[index] ?? null);
      const last = index === messages.length - 1;
      view.update(message, { modelReady, connected, window: engine.window, last });
    });
  };

  /** The picker itself says why a load failed, while it is there to be seen. */
  const drawLoad = (): void => {
    const { engine, connected } = store.view;
    const notice = load.notices(engine) && !settings.visible;
    show(load.node, connected && (isLoading(engine) || hasFailed(engine) || engine.unloaded || notice));
  };

  const announce = (messages: readonly Message[]): void => {
    const last = messages.at(-1);
    if (last?.role !== "assistant") return;
    if (first) announcer.skip(last.id, last.text);
    else if (last.status === "error") announcer.say(`Error: ${last.error?.message ?? ""}`);
    else announcer.follow(last.id, last.text, last.status === "done" || last.status === "stopped");
  };

  const draw = (view: View): void => {
    const { engine, chat, connected, options } = view;
    const short = modelName(engine.model);
    const model = short || "the model";
    setAttribute(root, "aria-label", shared ? `${shared.name}: chat with ${model}` : `Chat with ${model}`);
    setAttribute(dot, "data-mlcw-state", !connected ? "offline" : engine.hang ? "hung" : engine.state);
    setText(name, short || "Chat");
    setAttribute(name, "title", engine.model || null);
    setText(state, connected ? engineText(engine) : "No kernel");
    setAttribute(state, "title", connected ? memoryText(engine) : null);
    title.update(shared?.ofChat ? "" : chat.title, connected);
    load.update(engine, connected);
    drawLoad();
    hang.update(engine, connected);
    drawContext(context, chat.messages, engine);
    settings.update(options, engine, connected, connected && !store.direct ? INDIRECT : "");
    show(earlier, connected && chat.earlier !== null);
    show(search.button, chat.messages.length > 0);
    show(anew, chat.messages.length > 0);
    show(save, chat.messages.length > 0);
    show(compare, view.comparing.offered);
    anew.disabled = save.disabled = compare.disabled = !connected;
    if (!connected && form.visible) closeForm();
    if (form.visible) drawForm();
    show(welcome, chat.messages.length === 0);
    setText(
      welcome,
      connected
        ? "Messages are answered in a background kernel; this notebook stays free."
        : "This chat has no kernel. Run its cell to start it.",
    );
    suggestions.update(view.variables, connected && chat.messages.length === 0);
    saved.update(chat.messages.length === 0 ? chat.saved : 0, connected);
    drawMessages(chat.messages, view);
    search.refresh();
    announce(chat.messages);
    const running = chat.messages.some((item) => item.status === "running" || item.status === "queued");
    if (!shared) composer.update({
      enabled: connected && engine.state !== "terminated",
      running: connected && running,
      placeholder: connected ? `Message ${model}` : "Run the cell to continue this chat",
      model,
      variables: view.variables,
    });
    first = false;
  };
  // Nothing changes the page after what is measured here, so that it is laid out once per frame.
  store.subscribe((view) => {
    room.keep(() => {
      draw(view);
      scroll.grown();
    });
  }, signal);
  return { toEnd: () => { scroll.toEnd(); } };
}

/** Shows how full the context window was after the last reply. */
function drawContext(node: HTMLElement, messages: readonly Message[], { window }: Engine): void {
  const stats = messages.findLast((message) => message.stats !== null)?.stats;
  const used = (stats?.promptTokens ?? 0) + (stats?.completionTokens ?? 0);
  show(node, window !== null && used > 0);
  if (window === null || used === 0) return;
  setText(node, `Context ${formatPercent(used / window)}`);
  setAttribute(node, "title", `${formatCount(used)} of ${formatCount(window)} tokens`);
  node.classList.toggle("mlcw-full", used / window > 0.9);
}

/** Explains the amount of memory in the header. */
function memoryText({ state, memoryBytes, memoryUsedBytes, gpu }: Engine): string | null {
  if (state !== "ready") return null;
  const lines: string[] = [];
  const { modelBytes = null, freeBytes = null, memoryBytes: allBytes = null } = gpu ?? {};
  if (modelBytes !== null && freeBytes !== null && allBytes !== null) {
    lines.push(
      `GPU memory: ${formatBytes(modelBytes)} for the model, ` +
        `${formatBytes(freeBytes)} free of ${formatBytes(allBytes)}`,
    );
  }
  if (memoryUsedBytes !== null) {
    const machine = memoryBytes === null ? "" : `, of ${formatBytes(memoryBytes)} on its machine`;
    lines.push(`Memory of the worker: ${formatBytes(memoryUsedBytes)}${machine}`);
  }
  return lines.join("\n") || null;
}

/** The device, and the memory there that the model (on a GPU) or the worker (on a CPU) takes. */
function deviceText({ device, gpu, memoryUsedBytes }: Engine): string {
  const memory = gpu?.modelBytes ?? memoryUsedBytes;
  return joinFacts(gpu?.name ?? device, memory === null ? "" : `${formatBytes(memory)} memory`);
}

function engineText(engine: Engine): string {
  switch (engine.state) {
    case "ready":
      return deviceText(engine);
    case "starting":
    case "loading":
      return `${phaseText(engine)} …`;
    case "dead":
      return "The worker stopped";
    case "terminated":
      return "The engine was terminated";
    default:
      return engine.error ? "Not loaded" : "No model is loaded";
  }
}
