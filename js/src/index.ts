/** The bundle's anywidget module. The trait `_view` chooses the view: a chat, one reply, two chats, a load, or a map. */

import type { Model } from "./host.ts";
import { markOutput } from "./output-mark.ts";
import { keepTranscript } from "./transcript-output.ts";
import { drawTranscriptsLazily } from "./lazy.ts";
import { Store } from "./store.ts";
import { renderChat } from "./views/chat.ts";
import { renderCompare } from "./views/compare.ts";
import { showComparisons } from "./views/comparison.ts";
import { renderLoadProgress } from "./views/load.ts";
import { renderMapProgress } from "./views/map.ts";

interface Props {
  readonly model: Model;
  /**
   * Aborts when the widget (`initialize`) or the view (`render`) is closed. Older hosts call the
   * returned function instead.
   */
  readonly signal?: AbortSignal;
}

/** Stores by the model's id: `initialize` and `render` get different proxies of the same model. */
const stores = new Map<string, Store>();

function lifetime(signal: AbortSignal | undefined): AbortController {
  const controller = new AbortController();
  if (signal?.aborted) controller.abort();
  signal?.addEventListener("abort", () => {
    controller.abort();
  });
  return controller;
}

function initialize({ model, signal }: Props): () => void {
  const controller = lifetime(signal);
  const id = String(model.get("_comm_id"));
  const store = new Store(model, controller.signal);
  stores.set(id, store);
  drawTranscriptsLazily(model);
  if (!["load", "compare"].includes(String(model.get("_view")))) keepTranscript(model, store.intents, controller.signal);
  controller.signal.addEventListener("abort", () => {
    if (stores.get(id) === store) stores.delete(id);
  });
  return () => {
    controller.abort();
  };
}

const MISSING = "These chats need their kernel: run their cell again.";
const PREFIX = "IPY_MODEL_";

interface Manager {
  get_model(id: string): Promise<Model>;
}

/** The stores of the chats that a comparison shows. */
async function storesOf(model: Model, ids: readonly string[], signal: AbortSignal): Promise<Store[]> {
  const manager = model.widget_manager as Manager;
  const models = await Promise.all(ids.map((id) => manager.get_model(id.replace(PREFIX, ""))));
  return models.map((chat) => stores.get(String(chat.get("_comm_id"))) ?? new Store(chat, signal));
}

function render({ model, signal, el }: Props & { readonly el: HTMLElement }): () => void {
  const controller = lifetime(signal);
  const store =
    stores.get(String(model.get("_comm_id"))) ?? new Store(model, controller.signal);
  const view = model.get("_view");
  if (view === "compare") {
    storesOf(model, model.get("_chats") as readonly string[], controller.signal).then((chats) => {
      if (controller.signal.aborted) return;
      renderCompare({ store, chats, el, signal: controller.signal });
      markOutput(el, view, controller.signal);
    }).catch(() => { el.textContent = MISSING; });
    return () => { controller.abort(); };
  }
  const draw = { load: renderLoadProgress, map: renderMapProgress }[String(view)] ?? renderChat;
  draw({ store, el, signal: controller.signal });
  markOutput(el, String(view), controller.signal);
  if (view === "chat") {
    showComparisons({ store, el, signal: controller.signal }, (ids, until) => storesOf(model, ids, until));
  }
  // One reply below its %%chat cell: styles/reply.css hides the rest of the chat.
  if (view === "reply") el.querySelector(".mlcw-chat")?.classList.add("mlcw-reply");
  return () => {
    controller.abort();
  };
}

export default { initialize, render };
