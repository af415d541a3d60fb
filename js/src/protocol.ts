/**
 * What the kernel's side and the page say to each other.
 *
 * Kernel to page: the synced traits `_engine`, `_chat`, `_live` and `_options` mirror snapshots, the
 * first two with a growing `rev`, all without a single `<` (`readTrait`); custom messages carry what streams (`delta`) and what answers an intent (`ack`).
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

/** No sign of life for longer than is usual: of the worker at all, or of a model's step. */
export interface Hang {
  readonly part: "worker" | "engine";
  readonly seconds: number;
}

export interface Engine {
  readonly rev: number;
  readonly state: EngineState;
  readonly model: string;
  readonly device: string;
  readonly runtime: string;
  /** Tokens of the context window; null is "not known". */
  readonly window: number | null;
  /** Of the worker's machine, and what of it the worker holds. */
  readonly memoryBytes: number | null;
  readonly memoryUsedBytes: number | null;
  readonly progress: Progress | null;
  readonly error: ErrorInfo | null;
  readonly hang: Hang | null;
  /** The settings that the model's configuration has. */
  readonly defaults: Readonly<Partial<Record<OptionName, number>>>;
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

export interface ToolCall {
  readonly name: string;
  readonly arguments: string;
}

export interface Message {
  readonly id: string;
  readonly role: Role;
  readonly text: string;
  readonly reasoning: string;
  readonly toolCalls: readonly ToolCall[];
  /** Are the notebook's functions at these calls? */
  readonly calling: boolean;
  /** Of a tool's result: the tool. */
  readonly name: string;
  /** Was the reply asked for as JSON? */
  readonly json: boolean;
  /** This message's id among those in its place, oldest first; empty if it is alone. */
  readonly branches: readonly string[];
  readonly status: Status;
  readonly finish: string;
  readonly error: ErrorInfo | null;
  readonly stats: Stats | null;
  /** null, or another worker went on with it: is the text the one that it would have been? */
  readonly resumed: boolean | null;
  /** Does its end say the same again and again? */
  readonly repeats: boolean;
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
  readonly part: Part;
  readonly offset: number;
  readonly text: string;
}

export type Part = "text" | "reasoning";

/** The chat's settings; null leaves one to the model. */
export interface Options {
  readonly system: string | null;
  readonly temperature: number | null;
  readonly top_p: number | null;
  readonly repetition_penalty: number | null;
  readonly max_tokens: number | null;
  readonly seed: number | null;
  readonly schema: string | null;
  readonly tools: readonly string[];
  /** Names of the models that are built in. */
  readonly models: readonly string[];
}
export type OptionName = Exclude<keyof Options, "tools" | "models">;

/** An intent was taken over; `error` says why it was refused. */
export interface Ack {
  readonly intent: string;
  readonly error: string | null;
}

export type Intent =
  | { readonly kind: "send"; readonly text: string }
  | { readonly kind: "results"; readonly reply: string; readonly results: readonly string[] }
  | { readonly kind: "stop"; readonly reply?: string }
  | { readonly kind: "retry"; readonly reply: string }
  | { readonly kind: "edit"; readonly message: string; readonly text: string }
  | { readonly kind: "select"; readonly message: string }
  | { readonly kind: "delete"; readonly message: string }
  | { readonly kind: "set"; readonly name: OptionName; readonly value: string | number | null }
  | { readonly kind: "load"; readonly model: string | null }
  | { readonly kind: "restart" }
  | { readonly kind: "resync" }
  | { readonly kind: "kept" }
  | { readonly kind: "transcript" }
  | { readonly kind: "cancel_load" };

type Json = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const text = (value: unknown): string => (typeof value === "string" ? value : "");
const number = (value: unknown): number | null =>
  typeof value === "number" && Number.isFinite(value) ? value : null;
const count = (value: unknown): number => Math.max(0, number(value) ?? 0);

const texts = (value: unknown): string[] =>
  Array.isArray(value) ? value.filter((item) => typeof item === "string") : [];

/**
 * A synced trait's value as it was meant. Saved state holds no `<`, which might end the script tag
 * that an exported page keeps it in: U+E03C and 1 stand for it, U+E03C and 0 for U+E03C.
 */
export function readTrait(value: unknown): unknown {
  if (typeof value === "string") {
    return value.includes(MARK) ? value.replace(MARKED, (_, which) => (which === "1" ? "<" : MARK)) : value;
  }
  if (Array.isArray(value)) return value.map(readTrait);
  if (!isObject(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, readTrait(item)]));
}

const MARK = "\ue03c";
const MARKED = /\ue03c([01])/g;

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

function parseHang(value: unknown): Hang | null {
  if (!isObject(value)) return null;
  return { part: oneOf(["worker", "engine"] as const, value["part"], "worker"), seconds: count(value["seconds"]) };
}

const NUMBERS = ["temperature", "top_p", "repetition_penalty", "max_tokens"] as const;

function parseDefaults(value: unknown): Engine["defaults"] {
  const defaults = isObject(value) ? value : {};
  const found = NUMBERS.map((name) => [name, number(defaults[name])] as const);
  return Object.fromEntries(found.filter(([, item]) => item !== null));
}

export function parseEngine(value: unknown): Engine {
  const engine = isObject(value) ? value : {};
  return {
    rev: count(engine["rev"]),
    state: oneOf(ENGINE_STATES, engine["state"], "idle"),
    model: text(engine["model"]),
    device: text(engine["device"]),
    runtime: text(engine["runtime"]),
    window: number(engine["window"]),
    memoryBytes: number(engine["memory_bytes"]),
    memoryUsedBytes: number(engine["memory_used_bytes"]),
    progress: parseProgress(engine["progress"]),
    error: parseError(engine["error"]),
    hang: parseHang(engine["hang"]),
    defaults: parseDefaults(engine["defaults"]),
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

function parseCalls(value: unknown): ToolCall[] {
  const calls: readonly unknown[] = Array.isArray(value) ? value : [];
  return calls.filter(isObject).map((call) => ({ name: text(call["name"]), arguments: text(call["arguments"]) }));
}

function parseMessage(value: unknown): Message | null {
  if (!isObject(value) || typeof value["id"] !== "string") return null;
  return {
    id: value["id"],
    role: oneOf(ROLES, value["role"], "assistant"),
    text: text(value["text"]),
    reasoning: text(value["reasoning"]),
    toolCalls: parseCalls(value["tool_calls"]),
    calling: value["calling"] === true,
    name: text(value["name"]),
    json: value["json"] === true,
    branches: texts(value["branches"]),
    status: oneOf(STATUSES, value["status"], "done"),
    finish: text(value["finish"]),
    error: parseError(value["error"]),
    stats: parseStats(value["stats"]),
    resumed: typeof value["resumed"] === "boolean" ? value["resumed"] : null,
    repeats: value["repeats"] === true,
  };
}

export function parseChat(value: unknown): ChatSnapshot {
  const chat = isObject(value) ? value : {};
  const items: readonly unknown[] = Array.isArray(chat["messages"]) ? chat["messages"] : [];
  const messages = items.map(parseMessage).filter((message) => message !== null);
  return { rev: count(chat["rev"]), messages };
}

/** Reads a `delta` message. */
export function parseDelta(value: unknown): Delta | null {
  if (!isObject(value) || typeof value["reply"] !== "string") return null;
  if (typeof value["text"] !== "string") return null;
  const part = oneOf(["text", "reasoning"] as const, value["part"], "text");
  return { reply: value["reply"], part, offset: count(value["offset"]), text: value["text"] };
}

/** Reads the `_live` trait: all that the growing reply says so far. */
export function parseLive(value: unknown): Delta[] {
  if (!isObject(value)) return [];
  const { reply } = value;
  return (["reasoning", "text"] as const)
    .map((part) => parseDelta({ reply, part, offset: 0, text: value[part] }))
    .filter((delta) => delta !== null);
}

export function parseOptions(value: unknown): Options {
  const options = isObject(value) ? value : {};
  return {
    system: text(options["system"]) || null,
    temperature: number(options["temperature"]),
    top_p: number(options["top_p"]),
    repetition_penalty: number(options["repetition_penalty"]),
    max_tokens: number(options["max_tokens"]),
    seed: number(options["seed"]),
    schema: text(options["schema"]) || null,
    tools: texts(options["tools"]),
    models: texts(options["models"]),
  };
}

export function parseAck(value: unknown): Ack | null {
  if (!isObject(value) || typeof value["intent"] !== "string") return null;
  return { intent: value["intent"], error: text(value["error"]) || null };
}

export function messageType(value: unknown): string {
  return isObject(value) ? text(value["type"]) : "";
}
