/**
 * What the kernel's side and the page say to each other.
 *
 * Kernel to page: the synced traits `_engine`, `_chat` and `_live` mirror snapshots, each with a
 * growing `rev`; custom messages carry what streams (`delta`) and what answers an intent (`ack`).
 * Page to kernel: intents, as custom messages `{type: "intent", id, intent}`. The page holds no truth.
 *
 * Everything that arrives is checked here: saved notebooks may hold any state at all.
 */

export type EngineState = "idle" | "starting" | "loading" | "ready" | "dead" | "terminated";

export interface Progress {
  readonly progress: number;
  readonly text: string;
  readonly phase: string;
  readonly elapsed: number;
  readonly bytesDone: number | null;
  readonly bytesTotal: number | null;
  readonly bytesPerS: number | null;
  readonly etaS: number | null;
}

export interface ErrorInfo {
  readonly type: string;
  readonly message: string;
}

export interface Engine {
  readonly rev: number;
  readonly state: EngineState;
  readonly model: string;
  readonly device: string;
  readonly progress: Progress | null;
  readonly error: ErrorInfo | null;
}

/** Figures of one reply; null is "not known". */
export interface Stats {
  readonly ttftS: number | null;
  readonly tokensPerS: number | null;
  readonly promptTokens: number | null;
  readonly completionTokens: number | null;
}

export type Role = "system" | "user" | "assistant" | "tool";
export type Status = "queued" | "running" | "done" | "stopped" | "error";

export interface Message {
  readonly id: string;
  readonly role: Role;
  readonly text: string;
  readonly status: Status;
  readonly finish: string;
  readonly error: ErrorInfo | null;
  readonly stats: Stats | null;
}

/** The conversation as the kernel's side saw it at `rev`. */
export interface ChatSnapshot {
  readonly rev: number;
  readonly messages: readonly Message[];
}

/**
 * Text that was appended to a reply. `offset` is where it begins, in UTF-16 code units, which is
 * what JavaScript strings count in. Text is only ever appended, and a reply that is made anew gets
 * another id, so equal offsets of one id always hold equal text.
 */
export interface Delta {
  readonly reply: string;
  readonly offset: number;
  readonly text: string;
}

/** An intent was taken over; `error` says why it was refused. */
export interface Ack {
  readonly intent: string;
  readonly error: string | null;
}

export type Intent =
  | { readonly kind: "send"; readonly text: string }
  | { readonly kind: "stop" }
  | { readonly kind: "retry"; readonly reply: string }
  | { readonly kind: "resync" }
  | { readonly kind: "cancel_load" };

type Json = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const text = (value: unknown): string => (typeof value === "string" ? value : "");
const number = (value: unknown): number | null =>
  typeof value === "number" && Number.isFinite(value) ? value : null;
const count = (value: unknown): number => Math.max(0, number(value) ?? 0);

function oneOf<T extends string>(allowed: readonly T[], value: unknown, otherwise: T): T {
  return allowed.find((item) => item === value) ?? otherwise;
}

const ENGINE_STATES = ["idle", "starting", "loading", "ready", "dead", "terminated"] as const;
const ROLES = ["system", "user", "assistant", "tool"] as const;
const STATUSES = ["queued", "running", "done", "stopped", "error"] as const;

function parseError(value: unknown): ErrorInfo | null {
  if (!isObject(value)) return null;
  return { type: text(value["type"]), message: text(value["message"]) };
}

function parseProgress(value: unknown): Progress | null {
  if (!isObject(value)) return null;
  return {
    progress: Math.min(1, count(value["progress"])),
    text: text(value["text"]),
    phase: text(value["phase"]),
    elapsed: count(value["elapsed"]),
    bytesDone: number(value["bytes_done"]),
    bytesTotal: number(value["bytes_total"]),
    bytesPerS: number(value["bytes_per_s"]),
    etaS: number(value["eta_s"]),
  };
}

export function parseEngine(value: unknown): Engine {
  const engine = isObject(value) ? value : {};
  return {
    rev: count(engine["rev"]),
    state: oneOf(ENGINE_STATES, engine["state"], "idle"),
    model: text(engine["model"]),
    device: text(engine["device"]),
    progress: parseProgress(engine["progress"]),
    error: parseError(engine["error"]),
  };
}

function parseStats(value: unknown): Stats | null {
  if (!isObject(value)) return null;
  return {
    ttftS: number(value["ttft_s"]),
    tokensPerS: number(value["tokens_per_s"]),
    promptTokens: number(value["prompt_tokens"]),
    completionTokens: number(value["completion_tokens"]),
  };
}

function parseMessage(value: unknown): Message | null {
  if (!isObject(value) || typeof value["id"] !== "string") return null;
  return {
    id: value["id"],
    role: oneOf(ROLES, value["role"], "assistant"),
    text: text(value["text"]),
    status: oneOf(STATUSES, value["status"], "done"),
    finish: text(value["finish"]),
    error: parseError(value["error"]),
    stats: parseStats(value["stats"]),
  };
}

export function parseChat(value: unknown): ChatSnapshot {
  const chat = isObject(value) ? value : {};
  const items: readonly unknown[] = Array.isArray(chat["messages"]) ? chat["messages"] : [];
  const messages = items.map(parseMessage).filter((message) => message !== null);
  return { rev: count(chat["rev"]), messages };
}

/** Reads a `delta` message, or the `_live` trait, which is a delta from offset 0. */
export function parseDelta(value: unknown): Delta | null {
  if (!isObject(value) || typeof value["reply"] !== "string") return null;
  if (typeof value["text"] !== "string") return null;
  return { reply: value["reply"], offset: count(value["offset"]), text: value["text"] };
}

export function parseAck(value: unknown): Ack | null {
  if (!isObject(value) || typeof value["intent"] !== "string") return null;
  return { intent: value["intent"], error: text(value["error"]) || null };
}

export function messageType(value: unknown): string {
  return isObject(value) ? text(value["type"]) : "";
}
