/**
 * What we use of the host (JupyterLab, Notebook, …) beyond anywidget's model: the kernel connection,
 * its control channel and the comm. None of it is public API, so every step is guarded; where
 * something is missing, intents are sent over the ordinary comm.
 */

import { uniqueId } from "./ids.ts";

/** The part of anywidget's model that we use. */
export interface Model {
  get(name: string): unknown;
  send(content: unknown): void;
  on(event: string, callback: (...args: never[]) => void): void;
  off(event: string, callback: (...args: never[]) => void): void;
  readonly widget_manager?: unknown;
}

interface KernelConnection {
  readonly clientId: string;
  readonly username: string;
  readonly status?: string;
  sendControlMessage(message: unknown, expectReply: boolean, disposeOnDone: boolean): unknown;
}

interface ServiceComm {
  commsOverSubshells?: string;
  readonly subshellId?: string | null;
}

interface HostModel {
  readonly comm_live?: boolean;
  readonly comm?: { readonly jsServicesComm?: ServiceComm };
  on?(event: string, callback: () => void): void;
  off?(event: string, callback: () => void): void;
}

/** Milliseconds that a message waits for its comm's own subshell, and between two looks at it. */
const START_PATIENCE = 1000;
const START_INTERVAL = 20;

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null;

function kernelOf(model: Model): KernelConnection | null {
  try {
    const manager = model.widget_manager;
    const kernel = isRecord(manager) ? manager["kernel"] : null;
    if (!isRecord(kernel) || typeof kernel["sendControlMessage"] !== "function") return null;
    return kernel as unknown as KernelConnection;
  } catch {
    return null;
  }
}

async function hostModelOf(model: Model, commId: string): Promise<HostModel | null> {
  try {
    const manager = model.widget_manager;
    if (!isRecord(manager) || typeof manager["get_model"] !== "function") return null;
    const found: unknown = await (manager["get_model"] as (id: string) => unknown)(commId);
    return isRecord(found) ? (found) : null;
  } catch {
    return null;
  }
}

/** Whether the host gives access to the kernel's control channel. */
export function hasControl(model: Model): boolean {
  return kernelOf(model) !== null;
}

/**
 * Sends a custom message on the control channel, which the kernel serves even while a cell runs.
 * Returns false if the host gives no access to it.
 */
export function sendOnControl(model: Model, commId: string, content: unknown): boolean {
  const kernel = kernelOf(model);
  if (!kernel) return false;
  try {
    const message = {
      channel: "control",
      header: {
        msg_id: uniqueId(),
        msg_type: "comm_msg",
        session: kernel.clientId,
        username: kernel.username,
        date: new Date().toISOString(),
        version: "5.3",
      },
      parent_header: {},
      metadata: {},
      content: { comm_id: commId, data: { method: "custom", content } },
      buffers: [],
    };
    kernel.sendControlMessage(message, false, true);
    return true;
  } catch {
    return false;
  }
}

/** The subshell that a widget's comm has to itself. */
export interface OwnSubshell {
  /** Its id; null while it has not started, and where the kernel has no subshells. */
  readonly id: string | null;
}

/** What comms had, and shared with other widgets' comms, before they got subshells of their own. */
const shared = new WeakMap<ServiceComm, string | null>();

/**
 * Gives this widget's comm its own subshell, so that callbacks of other widgets do not delay it.
 * Resolves once the subshell has started, after a second at the latest, and at once with null if
 * the host has no subshells.
 */
export async function useOwnSubshell(model: Model, commId: string): Promise<OwnSubshell | null> {
  const comm = (await hostModelOf(model, commId))?.comm?.jsServicesComm;
  if (comm?.commsOverSubshells === undefined) return null;
  const own: OwnSubshell = {
    get id() {
      const id = comm.subshellId ?? null;
      return id === shared.get(comm) ? null : id;
    },
  };
  if (comm.commsOverSubshells === "perComm") return own;
  shared.set(comm, comm.subshellId ?? null);
  try {
    comm.commsOverSubshells = "perComm";
  } catch {
    return null; // The default subshell, or the main shell, will do.
  }
  // JupyterLab leaves the shared subshell first. Until then, what it calls started is that one.
  for (let waited = 0; own.id === null && waited < START_PATIENCE; waited += START_INTERVAL) {
    await new Promise((resolve) => setTimeout(resolve, START_INTERVAL));
  }
  return own;
}

interface Signal {
  connect(slot: () => void): unknown;
  disconnect(slot: () => void): unknown;
}

/** The notebook's connection to a kernel, in JupyterLab and Notebook 7. */
interface SessionContext {
  readonly session?: { readonly kernel?: { readonly id: string; readonly status: string } | null } | null;
  readonly kernelChanged: Signal;
  readonly statusChanged: Signal;
}

function sessionContextOf(model: Model): SessionContext | null {
  try {
    const manager = model.widget_manager;
    const context = isRecord(manager) ? manager["context"] : null;
    const session = isRecord(context) ? context["sessionContext"] : null;
    const hasSignals = isRecord(session) && isRecord(session["kernelChanged"]) && isRecord(session["statusChanged"]);
    return hasSignals ? (session as unknown as SessionContext) : null;
  } catch {
    return null;
  }
}

/**
 * Calls back with whether the widget has a kernel: at once, and at each change. If the host does
 * not say, the widget counts as connected.
 */
export async function watchConnection(
  model: Model,
  commId: string,
  signal: AbortSignal,
  callback: (connected: boolean) => void,
): Promise<void> {
  const host = await hostModelOf(model, commId);
  if (signal.aborted || host?.comm_live === undefined) return;
  const session = sessionContextOf(model);
  const own = session?.session?.kernel?.id;
  const report = (): void => {
    const kernel = session?.session?.kernel;
    // The widget manager notices restarts, but neither that the kernel is shut down nor that it is another.
    const gone = own !== undefined && (kernel?.id !== own || kernel.status === "dead");
    callback(host.comm_live !== false && !gone);
  };
  report();
  host.on?.("comm_live_update", report);
  session?.kernelChanged.connect(report);
  session?.statusChanged.connect(report);
  signal.addEventListener("abort", () => {
    host.off?.("comm_live_update", report);
    session?.kernelChanged.disconnect(report);
    session?.statusChanged.disconnect(report);
  });
}
