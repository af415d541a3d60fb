/**
 * Keeps the transcript below a chat up to date after the page was reloaded.
 *
 * The kernel updates that output by its display id (widget/transcript_output.py). A page knows the
 * display ids only of outputs that it saw being made, so after a reload it asks the kernel for the
 * transcript, and writes it to the notebook itself where the host allows that. Nothing is drawn here.
 *
 * Where several users share a notebook, what one page writes reaches the others. Each page replaces the
 * output by a new one, so two that do so at once would leave two transcripts: the kernel sends it to one
 * page at a time, and a page asks only when another one's update should have arrived.
 */

import { uniqueId } from "./ids.ts";
import type { Model } from "./host.ts";
import type { IntentSender } from "./intents.ts";
import { messageType } from "./protocol.ts";

/** Milliseconds after which the host should have applied the kernel's own update. */
const PATIENCE = 1000;
/** The same where another user's page applies it. */
const SHARED_PATIENCE = 5000;
/** Milliseconds after which the page that has its turn has written it, or is gone (`_TURN_S` in the kernel). */
const TURN = 11_000;

type Json = Readonly<Record<string, unknown>>;

interface Output {
  readonly metadata?: unknown;
}

interface Outputs {
  readonly length: number;
  get(index: number): Output;
  set(index: number, output: unknown): void;
}

interface Cells {
  readonly length: number;
  get(index: number): { readonly outputs?: Outputs };
}

const isJson = (value: unknown): value is Json => typeof value === "object" && value !== null;

interface Notebook {
  readonly cells?: Cells;
  readonly collaborative?: boolean;
}

function notebookOf(model: Model): Notebook | null {
  const manager = model.widget_manager;
  const context = isJson(manager) ? manager["context"] : null;
  const notebook = isJson(context) ? context["model"] : null;
  return isJson(notebook) ? notebook : null;
}

/** Calls back with each output of the notebook that holds this transcript, and its revision. */
function eachOutput(
  model: Model,
  id: string,
  callback: (outputs: Outputs, index: number, rev: number) => void,
): void {
  const cells = notebookOf(model)?.cells;
  for (let at = 0; at < (cells?.length ?? 0); at++) {
    const outputs = cells?.get(at).outputs;
    for (let index = 0; index < (outputs?.length ?? 0); index++) {
      const metadata = outputs?.get(index).metadata;
      const mark = isJson(metadata) ? metadata["mlc_widget"] : null;
      if (outputs && isJson(mark) && mark["transcript"] === id) {
        callback(outputs, index, Number(mark["rev"]));
      }
    }
  }
}

export function keepTranscript(model: Model, intents: IntentSender, signal: AbortSignal): void {
  if (!isJson(model.widget_manager) || !isJson(model.widget_manager["context"])) return;
  const timers = new Set<ReturnType<typeof setTimeout>>();
  const page = uniqueId();

  const later = (milliseconds: number, action: () => void): void => {
    const timer = setTimeout(() => {
      timers.delete(timer);
      try {
        action();
      } catch {
        // The host is not JupyterLab, and its notebook has another structure.
      }
    }, milliseconds);
    timers.add(timer);
  };

  const check = (id: string, rev: number, again: boolean): void => {
    const revs: number[] = [];
    eachOutput(model, id, (_outputs, _index, has) => revs.push(has));
    if (!revs.some((has) => has < rev)) return;
    void intents.send({ kind: "transcript", page }, { signal }).catch(() => undefined);
    if (again) later(TURN, () => { check(id, rev, false); });
  };

  const onMessage = (content: unknown): void => {
    const type = messageType(content);
    if (!isJson(content) || typeof content["id"] !== "string") return;
    const { id, rev, output } = content as { id: string; rev: unknown; output: unknown };
    try {
      if (type === "kept") {
        const patience = notebookOf(model)?.collaborative === true ? SHARED_PATIENCE : PATIENCE;
        later(patience, () => { check(id, Number(rev), true); });
      } else if (type === "transcript" && content["page"] === page) {
        eachOutput(model, id, (outputs, index, has) => {
          if (has < Number(rev)) outputs.set(index, output);
        });
      }
    } catch {
      // As above.
    }
  };

  model.on("msg:custom", onMessage);
  signal.addEventListener("abort", () => {
    model.off("msg:custom", onMessage);
    for (const timer of timers) clearTimeout(timer);
  });
  // Replies may have ended while no page was open.
  void intents.send({ kind: "kept" }, { signal }).catch(() => undefined);
}
