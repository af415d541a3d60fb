/**
 * Turns snapshots and deltas, in any order, into the conversation.
 *
 * A pure function: no clock, no DOM. Deltas may be lost, repeated, late or out of order. The shown
 * text of a reply is always a prefix of the true text, and equals it once a snapshot or all deltas
 * have arrived. `hasGap` tells the store to ask for a snapshot.
 */

import type { ChatSnapshot, Delta, Message } from "./protocol.ts";

export interface ChatState {
  readonly rev: number;
  readonly messages: readonly Message[];
  readonly saved: number;
  readonly earlier: string | null;
  readonly title: string;
  /** Deltas by reply that cannot be applied yet, as earlier text or the reply itself is missing. */
  readonly waiting: ReadonlyMap<string, readonly Delta[]>;
}

export const emptyChat: ChatState = { rev: -1, messages: [], saved: 0, earlier: null, title: "", waiting: new Map() };

/** Of each reply, this many deltas may wait; older ones are dropped, as a snapshot will have their text. */
const MAX_WAITING = 512;

const grows = (message: Message): boolean =>
  message.status === "running" || message.status === "queued";

const longer = (one: string, other: string): string => (one.length > other.length ? one : other);

/** Whether two values of JSON are equal. */
function equal(one: unknown, other: unknown): boolean {
  if (one === other) return true;
  if (typeof one !== "object" || typeof other !== "object" || one === null || other === null) return false;
  const [keys, others] = [Object.keys(one), Object.keys(other)];
  return keys.length === others.length
    && keys.every((key) => key in other && equal(one[key as keyof typeof one], other[key as keyof typeof other]));
}

/** Applies a snapshot, unless a newer one has been applied. What has not changed stays the same object. */
export function applySnapshot(state: ChatState, snapshot: ChatSnapshot): ChatState {
  if (snapshot.rev < state.rev) return state;
  const shown = new Map(state.messages.map((message) => [message.id, message]));
  const messages = snapshot.messages.map((message) => {
    const old = shown.get(message.id);
    if (!old) return message;
    // Deltas may be ahead of the snapshot: text that is shown already stays.
    const now = grows(message)
      ? { ...message, text: longer(old.text, message.text), reasoning: longer(old.reasoning, message.reasoning) }
      : message;
    return equal(old, now) ? old : now;
  });
  const alive = new Set(messages.filter(grows).map((message) => message.id));
  const known = new Set(messages.map((message) => message.id));
  // A delta may arrive before the snapshot that introduces its reply.
  const waiting = new Map(
    [...state.waiting].filter(([reply]) => alive.has(reply) || !known.has(reply)),
  );
  let next: ChatState = { ...snapshot, messages, waiting };
  for (const reply of alive) next = settle(next, reply);
  return next;
}

/** Applies a delta, keeps it for later, or ignores it if its text is known. */
export function applyDelta(state: ChatState, delta: Delta): ChatState {
  const message = state.messages.find((item) => item.id === delta.reply);
  if (message && !grows(message)) return state; // it has its final text
  const have = message ? message[delta.part].length : 0;
  if (message && delta.offset + delta.text.length <= have) return state;
  const waiting = new Map(state.waiting);
  waiting.set(delta.reply, [...(waiting.get(delta.reply) ?? []), delta].slice(-MAX_WAITING));
  return settle({ ...state, waiting }, delta.reply);
}

/** Whether text before a received delta is missing. */
export function hasGap(state: ChatState): boolean {
  return state.waiting.size > 0;
}

/** Appends the waiting deltas of `reply` that continue its text. */
function settle(state: ChatState, reply: string): ChatState {
  const index = state.messages.findIndex((item) => item.id === reply);
  const message = state.messages[index];
  const queued = state.waiting.get(reply);
  if (!message || !queued) return state;
  const grown = { text: message.text, reasoning: message.reasoning, repeats: message.repeats };
  const rest: Delta[] = [];
  for (const delta of queued.toSorted((a, b) => a.offset - b.offset)) {
    const have = grown[delta.part].length;
    if (delta.offset > have) {
      rest.push(delta);
      continue;
    }
    grown[delta.part] += delta.text.slice(have - delta.offset);
    if (grown[delta.part].length > have) grown.repeats = delta.repeats;
  }
  const waiting = new Map(state.waiting);
  if (rest.length > 0) waiting.set(reply, rest);
  else waiting.delete(reply);
  if (grown.text === message.text && grown.reasoning === message.reasoning) return { ...state, waiting };
  return { ...state, waiting, messages: state.messages.with(index, { ...message, ...grown }) };
}
