/**
 * Keeps the transcript below a chat up to date after the page was reloaded.
 *
 * The kernel updates that output by its display id (widget/transcript_output.py). A page knows the
 * display ids only of outputs that it saw being made, so after a reload it asks the kernel for the
 * transcript, and writes it to the notebook itself where the host allows that. Nothing is drawn here.
 */

import type { Model } from "./host.ts";
import type { IntentSender } from "./intents.ts";
import { messageType } from "./protocol.ts";

/** Milliseconds after which the host should have applied the kernel's own update. */
const PATIENCE = 1000;

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

/** Calls back with each output of the notebook that holds this transcript, and its revision. */
function eachOutput(
  model: Model,
  id: string,
  callback: (outputs: Outputs, index: number, rev: number) => void,
): void {
  const manager = model.widget_manager;
  const context = isJson(manager) ? manager["context"] : null;
  const notebook = isJson(context) ? context["model"] : null;
  const cells = isJson(notebook) ? (notebook["cells"] as Cells | undefined) : undefined;
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

  const check = (id: string, rev: number): void => {
    const revs: number[] = [];
    eachOutput(model, id, (_outputs, _index, has) => revs.push(has));
    if (revs.some((has) => has < rev)) void intents.send({ kind: "transcript" }, { signal }).catch(() => undefined);
  };

  const onMessage = (content: unknown): void => {
    const type = messageType(content);
    if (!isJson(content) || typeof content["id"] !== "string") return;
    const { id, rev, output } = content as { id: string; rev: unknown; output: unknown };
    try {
      if (type === "kept") {
        const timer = setTimeout(() => {
          timers.delete(timer);
          try {
            check(id, Number(rev));
          } catch {
            // The host is not JupyterLab, and its notebook has another structure.
          }
        }, PATIENCE);
        timers.add(timer);
      } else if (type === "transcript") {
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
