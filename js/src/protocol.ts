/**
 * The messages between the kernel and the page.
 *
 * Kernel to page: the synced traits `_engine`, `_chat`, `_map`, `_live`, `_options`, `_chosen` and
 * `_comparing` hold snapshots, the first three with an increasing `rev`, all with `<` escaped (see `readTrait`). Custom messages append
 * text to a reply (`delta`) and acknowledge intents (`ack`).
 * Page to kernel: intents, as custom messages `{type: "intent", id, intent}`. Only the kernel
 * changes the conversation; the page shows its snapshots.
 *
 * Everything that arrives is checked here, since a saved notebook may hold any state at all.
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
  /** What the loaded models cannot do; empty if they are as usual. */
  readonly warning: string;
}

export interface ErrorInfo {
  readonly type: string;
  readonly message: string;
}

export interface FailedLoad {
  readonly model: string;
  readonly error: ErrorInfo;
}

/** A model to choose; sizes in bytes, null if unknown. */
export interface ModelChoice {
  readonly name: string;
  /** "built in", "here", "download", or the name of the program that has it here. */
  readonly place: string;
  readonly bytes: number | null;
  readonly memoryBytes: number | null;
  readonly licence: string;
  readonly fits: boolean | null;
}

/** The worker has not answered, or the engine has not finished a step, for longer than is usual. */
export interface Hang {
  readonly part: "worker" | "engine";
  readonly seconds: number;
}

/** The GPU that the model computes on, with its memory in bytes; null if unknown. */
export interface Gpu {
  readonly name: string;
  readonly memoryBytes: number | null;
  readonly freeBytes: number | null;
  readonly modelBytes: number | null;
}

export interface Engine {
  readonly rev: number;
  readonly state: EngineState;
  readonly model: string;
  readonly device: string;
  readonly runtime: string;
  /** Size of the context window in tokens; null if unknown. */
  readonly window: number | null;
  /** Memory of the worker's machine in bytes, and the part that the worker uses; null if unknown. */
  readonly memoryBytes: number | null;
  readonly memoryUsedBytes: number | null;
  readonly gpu: Gpu | null;
  readonly progress: Progress | null;
  /** Whether the model was loaded and no longer is, as it was unloaded. */
  readonly unloaded: boolean;
  readonly error: ErrorInfo | null;
  /** The last load, if it failed and left the model as it was. */
  readonly failed: FailedLoad | null;
  readonly hang: Hang | null;
  /** Default settings from the model's configuration. */
  readonly defaults: Readonly<Partial<Record<OptionName, number>>>;
}

/** Statistics of one reply; null if unknown. */
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

/** A call that is made only if the user allows it. */
export interface Question {
  /** Its place among the reply's calls. */
  readonly call: number;
  readonly server: string;
  readonly tool: string;
  /** What would be sent, as text without anything invisible. */
  readonly arguments: string;
}
export type Decision = "once" | "always" | "never";

/** The beginning of a text that went to the model with a message. */
export interface SentAttachment {
  readonly name: string;
  readonly text: string;
  /** The length of the whole text. */
  readonly length: number;
  /** Whether it stands in the message in place of `{name}`. */
  readonly variable: boolean;
}

export interface Message {
  readonly id: string;
  readonly role: Role;
  readonly text: string;
  /** What a question has in addition to its text. */
  readonly attachments: readonly SentAttachment[];
  readonly reasoning: string;
  readonly toolCalls: readonly ToolCall[];
  /** Whether these calls are being made. */
  readonly calling: boolean;
  /** Whether they were being made when the user stopped them. */
  readonly callsStopped: boolean;
  /** The calls that the user is asked about. */
  readonly questions: readonly Question[];
  /** In a message of the role "tool": the tool's name. */
  readonly name: string;
  /** Whether the request asked for JSON. */
  readonly json: boolean;
  /** The ids of all versions of this message, oldest first; empty if it has only one. */
  readonly branches: readonly string[];
  readonly status: Status;
  readonly finish: string;
  readonly error: ErrorInfo | null;
  readonly stats: Stats | null;
  /**
   * null, unless the worker died and another one continued the reply: then whether the text is
   * exactly the one that the first would have written.
   */
  readonly resumed: boolean | null;
  /** Whether the end of the reply keeps repeating itself. */
  readonly repeats: boolean;
  /** The number of tokens whose probabilities the kernel has. */
  readonly tokens: number;
}

/** The conversation in the kernel at revision `rev`. */
export interface ChatSnapshot {
  readonly rev: number;
  readonly messages: readonly Message[];
  /** The number of messages of an earlier chat that the saved notebook has for this one. */
  readonly saved: number;
  /** In a new chat, the first message of the one before; null if there is none. */
  readonly earlier: string | null;
  readonly title: string;
}

/**
 * Text that was appended to a reply. It begins at `offset`, counted in UTF-16 code units as in
 * JavaScript strings. Text is only ever appended, and a regenerated reply gets a new id, so the text
 * at an offset of a reply never changes.
 */
export interface Delta {
  readonly reply: string;
  readonly part: Part;
  readonly offset: number;
  readonly text: string;
  /** Whether the reply's end repeats itself as of this text. */
  readonly repeats: boolean;
}

export type Part = "text" | "reasoning";

/** The chat's settings; null stands for the model's default. */
export interface Options {
  readonly system: string | null;
  readonly temperature: number | null;
  readonly top_p: number | null;
  readonly top_k: number | null;
  readonly min_p: number | null;
  readonly repetition_penalty: number | null;
  readonly max_tokens: number | null;
  readonly seed: number | null;
  readonly logprobs: boolean | null;
  readonly schema: string | null;
  /** Pinned system prompts by their names. */
  readonly system_prompts: Prompts;
  readonly tools: readonly string[];
  readonly models: readonly ModelChoice[];
  /** The names of the settings that were changed in the page. */
  readonly changed: readonly string[];
}
export type OptionName = Exclude<keyof Options, "tools" | "models" | "changed" | "system_prompts">;
export type Prompts = Readonly<Record<string, string>>;

export type MapStage = "running" | "paused" | "stopping" | "done" | "stopped" | "failed";

/** A finished row of a map: one text for each of `MapState.columns`. */
export interface MapRow {
  readonly index: number;
  readonly cells: readonly string[];
  /** Why it failed; null if it did not. */
  readonly error: string | null;
  readonly cached: boolean;
}

/** The progress of a map over a table; times in seconds. */
export interface MapState {
  readonly rev: number;
  readonly state: MapStage;
  /** null if the data does not tell. */
  readonly total: number | null;
  readonly rows: number;
  readonly cached: number;
  readonly skipped: number;
  readonly errors: number;
  readonly truncated: number;
  readonly rowsPerS: number;
  readonly tokensPerS: number;
  readonly elapsed: number;
  readonly etaS: number | null;
  readonly firstError: string;
  readonly columns: readonly string[];
  readonly last: readonly MapRow[];
}

export type ExportFormat = "md" | "json" | "ipynb";

/** A token, its probability, and the likeliest tokens in its place. */
export interface Token extends Likely {
  readonly top: readonly Likely[];
}

export interface Likely {
  readonly text: string;
  readonly probability: number;
}

/** The tokens of a reply. */
export interface ReplyTokens {
  readonly reply: string;
  readonly tokens: readonly Token[];
}

/** The conversation as a file's text. */
export interface Export {
  readonly format: ExportFormat;
  readonly text: string;
}

/** The kernel has received an intent; `error` is null, or says why the intent was refused. */
export interface Ack {
  readonly intent: string;
  readonly error: string | null;
}

/** A text to send with a message. */
export interface Attachment {
  readonly name: string;
  readonly text: string;
}

/** A variable of the notebook, which messages may name in braces. */
export interface Variable {
  readonly name: string;
  readonly kind: "frame" | "error" | "";
  /** The name of its type. */
  readonly type: string;
  /** Rows and columns of a frame. */
  readonly shape: readonly [number, number] | null;
}

export type Intent =
  | { readonly kind: "send"; readonly text: string; readonly attachments?: readonly Attachment[] }
  | { readonly kind: "look" }
  | { readonly kind: "results"; readonly reply: string; readonly results: readonly string[] }
  | { readonly kind: "allow"; readonly reply: string; readonly call: number; readonly decision: Decision }
  | { readonly kind: "stop"; readonly reply?: string }
  | { readonly kind: "retry"; readonly reply: string }
  | { readonly kind: "edit"; readonly message: string; readonly text: string }
  | { readonly kind: "select"; readonly message: string }
  | { readonly kind: "delete"; readonly message: string }
  | { readonly kind: "new" }
  | { readonly kind: "rename"; readonly title: string }
  | { readonly kind: "export"; readonly format: ExportFormat }
  | { readonly kind: "set"; readonly name: OptionName; readonly value: string | number | boolean | null }
  | { readonly kind: "set"; readonly name: "system_prompts"; readonly value: Prompts }
  | { readonly kind: "tokens"; readonly reply: string }
  | { readonly kind: "reset" }
  | { readonly kind: "load"; readonly model: string | null }
  | { readonly kind: "restart" }
  | { readonly kind: "take_up" }
  | { readonly kind: "resync" }
  | { readonly kind: "kept" }
  | { readonly kind: "transcript"; readonly page: string }
  | { readonly kind: "cancel_load" }
  | { readonly kind: "choose"; readonly chat: number | null }
  | {
    readonly kind: "compare";
    readonly model: string | null;
    readonly settings: Readonly<Record<string, string | number | null>>;
    readonly text?: string;
    readonly attachments?: readonly Attachment[];
  }
  | { readonly kind: "keep"; readonly chat: number }
  | { readonly kind: "leave" }
  | { readonly kind: "pause" }
  | { readonly kind: "resume" };

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
 * The original value of a synced trait. Saved state holds no `<`, since that might end the script
 * tag in which an exported page keeps it: `<` is written as U+E03C and 1, U+E03C as U+E03C and 0.
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
    warning: text(value["warning"]),
  };
}

function parseFailed(value: unknown): FailedLoad | null {
  const error = isObject(value) ? parseError(value["error"]) : null;
  return isObject(value) && error ? { model: text(value["model"]), error } : null;
}

function parseModel(value: unknown): ModelChoice | null {
  const model = typeof value === "string" ? { name: value } : value; // a name alone
  if (!isObject(model) || !text(model["name"])) return null;
  return {
    name: text(model["name"]),
    place: text(model["place"]),
    bytes: number(model["nbytes"]),
    memoryBytes: number(model["memory_bytes"]),
    licence: text(model["licence"]),
    fits: typeof model["fits"] === "boolean" ? model["fits"] : null,
  };
}

function parseHang(value: unknown): Hang | null {
  if (!isObject(value)) return null;
  return { part: oneOf(["worker", "engine"] as const, value["part"], "worker"), seconds: count(value["seconds"]) };
}

const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens"] as const;

function parseDefaults(value: unknown): Engine["defaults"] {
  const defaults = isObject(value) ? value : {};
  const found = NUMBERS.map((name) => [name, number(defaults[name])] as const);
  return Object.fromEntries(found.filter(([, item]) => item !== null));
}

function parseGpu(value: unknown): Gpu | null {
  if (!isObject(value)) return null;
  return {
    name: text(value["name"]),
    memoryBytes: number(value["memory_bytes"]),
    freeBytes: number(value["free_bytes"]),
    modelBytes: number(value["model_bytes"]),
  };
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
    gpu: parseGpu(engine["gpu"]),
    progress: parseProgress(engine["progress"]),
    unloaded: engine["unloaded"] === true,
    error: parseError(engine["error"]),
    failed: parseFailed(engine["failed"]),
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

function parseQuestions(value: unknown): Question[] {
  const questions: readonly unknown[] = Array.isArray(value) ? value : [];
  return questions.filter(isObject).map((question) => ({
    call: count(question["call"]),
    server: text(question["server"]),
    tool: text(question["tool"]),
    arguments: text(question["arguments"]),
  }));
}

function parseAttachments(value: unknown): SentAttachment[] {
  const items: readonly unknown[] = Array.isArray(value) ? value : [];
  return items.filter(isObject).map((item) => ({
    name: text(item["name"]),
    text: text(item["text"]),
    length: count(item["length"]),
    variable: item["variable"] === true,
  }));
}

function parseVariable(value: unknown): Variable | null {
  if (!isObject(value) || !text(value["name"])) return null;
  const [rows, columns] = Array.isArray(value["shape"]) ? value["shape"].map(number) : [];
  return {
    name: text(value["name"]),
    kind: oneOf(["frame", "error", ""] as const, value["kind"], ""),
    type: text(value["type"]),
    shape: typeof rows === "number" && typeof columns === "number" ? [rows, columns] : null,
  };
}

/** Reads a `notebook` message: the variables that messages may name, the newest first. */
export function parseNotebook(value: unknown): Variable[] {
  const names: readonly unknown[] = isObject(value) && Array.isArray(value["names"]) ? value["names"] : [];
  return names.map(parseVariable).filter((variable) => variable !== null);
}

function parseMessage(value: unknown): Message | null {
  if (!isObject(value) || typeof value["id"] !== "string") return null;
  return {
    id: value["id"],
    role: oneOf(ROLES, value["role"], "assistant"),
    text: text(value["text"]),
    attachments: parseAttachments(value["attachments"]),
    reasoning: text(value["reasoning"]),
    toolCalls: parseCalls(value["tool_calls"]),
    calling: value["calling"] === true,
    callsStopped: value["calls_stopped"] === true,
    questions: parseQuestions(value["questions"]),
    name: text(value["name"]),
    json: value["json"] === true,
    branches: texts(value["branches"]),
    status: oneOf(STATUSES, value["status"], "done"),
    finish: text(value["finish"]),
    error: parseError(value["error"]),
    stats: parseStats(value["stats"]),
    resumed: typeof value["resumed"] === "boolean" ? value["resumed"] : null,
    repeats: value["repeats"] === true,
    tokens: count(value["tokens"]),
  };
}

/** Characters of a title that are drawn at most, whatever a saved notebook holds. */
const MOST_TITLE = 200;

export function parseChat(value: unknown): ChatSnapshot {
  const chat = isObject(value) ? value : {};
  const items: readonly unknown[] = Array.isArray(chat["messages"]) ? chat["messages"] : [];
  const messages = items.map(parseMessage).filter((message) => message !== null);
  return {
    rev: count(chat["rev"]),
    messages,
    saved: count(chat["saved"]),
    earlier: text(chat["earlier"]) || null,
    title: text(chat["title"]).slice(0, MOST_TITLE),
  };
}

/** Reads a `delta` message. */
export function parseDelta(value: unknown): Delta | null {
  if (!isObject(value) || typeof value["reply"] !== "string") return null;
  if (typeof value["text"] !== "string") return null;
  const part = oneOf(["text", "reasoning"] as const, value["part"], "text");
  const repeats = value["repeats"] === true;
  return { reply: value["reply"], part, offset: count(value["offset"]), text: value["text"], repeats };
}

/** Reads the `_live` trait: the whole text so far of the reply that is being written. */
export function parseLive(value: unknown): Delta[] {
  if (!isObject(value)) return [];
  const { reply, repeats } = value;
  return (["reasoning", "text"] as const)
    .map((part) => parseDelta({ reply, part, offset: 0, text: value[part], repeats }))
    .filter((delta) => delta !== null);
}

/** Pinned prompts that are listed at most, whatever a saved notebook holds. */
const MOST_PROMPTS = 50;

function parsePrompts(value: unknown): Prompts {
  const entries = isObject(value) ? Object.entries(value) : [];
  const whole = entries.filter((entry): entry is [string, string] => typeof entry[1] === "string");
  return Object.fromEntries(whole.slice(0, MOST_PROMPTS));
}

export function parseOptions(value: unknown): Options {
  const options = isObject(value) ? value : {};
  return {
    system: text(options["system"]) || null,
    temperature: number(options["temperature"]),
    top_p: number(options["top_p"]),
    top_k: number(options["top_k"]),
    min_p: number(options["min_p"]),
    repetition_penalty: number(options["repetition_penalty"]),
    max_tokens: number(options["max_tokens"]),
    seed: number(options["seed"]),
    logprobs: typeof options["logprobs"] === "boolean" ? options["logprobs"] : null,
    schema: text(options["schema"]) || null,
    system_prompts: parsePrompts(options["system_prompts"]),
    tools: texts(options["tools"]),
    changed: texts(options["changed"]),
    models: (Array.isArray(options["models"]) ? options["models"] : []).map(parseModel).filter((model) => model !== null),
  };
}

/** Whether a chat's answers can be compared, and the models of the two chats in which they are. */
export interface Comparing {
  readonly offered: boolean;
  readonly chats: readonly string[];
}

export function parseComparing(value: unknown): Comparing {
  const comparing = isObject(value) ? value : {};
  const chats = texts(comparing["chats"]);
  return { offered: comparing["offered"] === true, chats: chats.length === 2 ? chats : [] };
}

/** Reads which of two chats goes on alone; null for both. */
export function parseChosen(value: unknown): number | null {
  const chat = isObject(value) ? value["chat"] : null;
  return chat === 0 || chat === 1 ? chat : null;
}

const MAP_STAGES = ["running", "paused", "stopping", "done", "stopped", "failed"] as const;
/** Rows and columns of a map that are drawn at most, whatever a saved notebook holds. */
const MAP_ROWS = 20;
const MAP_COLUMNS = 12;

function parseMapRow(value: unknown): MapRow | null {
  if (!isObject(value)) return null;
  return {
    index: count(value["index"]),
    cells: texts(value["cells"]).slice(0, MAP_COLUMNS),
    error: typeof value["error"] === "string" ? value["error"] : null,
    cached: value["cached"] === true,
  };
}

export function parseMap(value: unknown): MapState {
  const map = isObject(value) ? value : {};
  const last: readonly unknown[] = Array.isArray(map["last"]) ? map["last"].slice(-MAP_ROWS) : [];
  return {
    rev: count(map["rev"]),
    state: oneOf(MAP_STAGES, map["state"], "running"),
    total: number(map["total"]),
    rows: count(map["rows"]),
    cached: count(map["cached"]),
    skipped: count(map["skipped"]),
    errors: count(map["errors"]),
    truncated: count(map["truncated"]),
    rowsPerS: count(map["rows_per_s"]),
    tokensPerS: count(map["tokens_per_s"]),
    elapsed: count(map["elapsed"]),
    etaS: number(map["eta_s"]),
    firstError: text(map["first_error"]),
    columns: texts(map["columns"]).slice(0, MAP_COLUMNS),
    last: last.map(parseMapRow).filter((row) => row !== null),
  };
}

export function parseAck(value: unknown): Ack | null {
  if (!isObject(value) || typeof value["intent"] !== "string") return null;
  return { intent: value["intent"], error: text(value["error"]) || null };
}

export function parseExport(value: unknown): Export | null {
  if (!isObject(value) || typeof value["text"] !== "string") return null;
  return { format: oneOf(["md", "json", "ipynb"] as const, value["format"], "md"), text: value["text"] };
}

function parseLikely(value: unknown): Likely | null {
  if (!Array.isArray(value) || typeof value[0] !== "string") return null;
  return { text: value[0], probability: Math.min(1, count(value[1])) };
}

function parseToken(value: unknown): Token | null {
  const token = parseLikely(value);
  const top: readonly unknown[] = Array.isArray(value) && Array.isArray(value[2]) ? value[2] : [];
  return token && { ...token, top: top.map(parseLikely).filter((item) => item !== null) };
}

/** Reads a `tokens` message. */
export function parseTokens(value: unknown): ReplyTokens | null {
  if (!isObject(value) || typeof value["reply"] !== "string") return null;
  const tokens: readonly unknown[] = Array.isArray(value["tokens"]) ? value["tokens"] : [];
  return { reply: value["reply"], tokens: tokens.map(parseToken).filter((token) => token !== null) };
}

export function messageType(value: unknown): string {
  return isObject(value) ? text(value["type"]) : "";
}
