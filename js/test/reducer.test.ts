import { describe, expect, it } from "vitest";

import type { ChatSnapshot, Delta, Message, Status } from "../src/protocol.ts";
import { applyDelta, applySnapshot, emptyChat, hasGap, type ChatState } from "../src/reducer.ts";

const message = (id: string, text: string, status: Status): Message => ({
  id, role: "assistant", text, status, finish: "", error: null, stats: null,
  reasoning: "", toolCalls: [], calling: false, callsStopped: false, questions: [], name: "", resumed: null, repeats: false, attachments: [], tokens: 0, json: false, branches: [],
});
const snapshot = (rev: number, ...messages: Message[]): ChatSnapshot => ({ rev, messages, saved: 0, earlier: null, title: "" });
const delta = (reply: string, offset: number, text: string): Delta => ({ reply, part: "text", offset, text, repeats: false });
const textOf = (state: ChatState, id: string): string | undefined =>
  state.messages.find((item) => item.id === id)?.text;

/** A small seeded generator (mulberry32), so that a failure can be reproduced. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let value = Math.imul(state ^ (state >>> 15), state | 1);
    value ^= value + Math.imul(value ^ (value >>> 7), value | 61);
    return ((value ^ (value >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Splits text into deltas between code points, as slices of Python's strings would be. */
function split(reply: string, text: string, random: () => number): Delta[] {
  const deltas: Delta[] = [];
  let piece = "";
  let offset = 0;
  for (const point of text) {
    piece += point;
    if (random() < 0.3) {
      deltas.push(delta(reply, offset, piece));
      offset += piece.length;
      piece = "";
    }
  }
  if (piece) deltas.push(delta(reply, offset, piece));
  return deltas;
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  return items.map((item) => [random(), item] as const).toSorted((a, b) => a[0] - b[0]).map(([, item]) => item);
}

const TRUTH = "Grüße, 👩‍👩‍👧 und 🇩🇪! 日本語 𝕏 e\u0301 — plain text follows.\n```py\nprint('🦙')\n```\nEnd 🎉";

describe("deltas in order", () => {
  it("build the text, counted in UTF-16 code units", () => {
    let state = applySnapshot(emptyChat, snapshot(1, message("a", "", "running")));
    state = applyDelta(state, delta("a", 0, "🦙 "));
    state = applyDelta(state, delta("a", 3, "hi"));
    expect(textOf(state, "a")).toBe("🦙 hi");
    expect(hasGap(state)).toBe(false);
  });

  it("tell whether the reply repeats itself, the newest text last", () => {
    let state = applySnapshot(emptyChat, snapshot(1, message("a", "", "running")));
    state = applyDelta(state, { ...delta("a", 3, "no"), repeats: false });
    state = applyDelta(state, { ...delta("a", 0, "yes"), repeats: true });
    expect(state.messages[0]).toMatchObject({ text: "yesno", repeats: false });
    state = applyDelta(state, { ...delta("a", 5, "ha"), repeats: true });
    state = applyDelta(state, { ...delta("a", 0, "yes"), repeats: false }); // known
    expect(state.messages[0]).toMatchObject({ text: "yesnoha", repeats: true });
  });

  it("overlap without doubling", () => {
    let state = applySnapshot(emptyChat, snapshot(1, message("a", "Hello", "running")));
    state = applyDelta(state, delta("a", 3, "lo, wor"));
    state = applyDelta(state, delta("a", 0, "Hello, world"));
    expect(textOf(state, "a")).toBe("Hello, world");
  });
});

describe("lost and late deltas", () => {
  it("shows no text after a gap, reports it, and goes on when a snapshot fills it", () => {
    let state = applySnapshot(emptyChat, snapshot(1, message("a", "", "running")));
    state = applyDelta(state, delta("a", 4, "tail"));
    expect(textOf(state, "a")).toBe("");
    expect(hasGap(state)).toBe(true);
    state = applySnapshot(state, snapshot(2, message("a", "head", "running")));
    expect(textOf(state, "a")).toBe("headtail");
    expect(hasGap(state)).toBe(false);
  });

  it("keeps a delta that comes before the snapshot that names its reply", () => {
    let state = applyDelta(emptyChat, delta("a", 0, "early"));
    expect(hasGap(state)).toBe(true);
    state = applySnapshot(state, snapshot(1, message("u", "hi", "done"), message("a", "", "running")));
    expect(textOf(state, "a")).toBe("early");
    expect(hasGap(state)).toBe(false);
  });

  it("never removes text that a late snapshot does not have yet", () => {
    let state = applySnapshot(emptyChat, snapshot(1, message("a", "", "running")));
    state = applyDelta(state, delta("a", 0, "Hello, world"));
    state = applySnapshot(state, snapshot(2, message("a", "Hello", "running")));
    expect(textOf(state, "a")).toBe("Hello, world");
  });

  it("keeps the objects of messages that it does not change", () => {
    const first = applySnapshot(emptyChat, snapshot(1, message("a", "Hello", "done"), message("b", "", "running")));
    const grown = applyDelta(first, delta("b", 0, "Hi"));
    const second = applySnapshot(grown, snapshot(2, message("a", "Hello", "done"), message("b", "", "running")));
    expect(second.messages[0]).toBe(first.messages[0]);
    expect(second.messages[1]).toBe(grown.messages[1]);
    const third = applySnapshot(second, snapshot(3, { ...message("a", "Hello", "done"), branches: ["a", "c"] }));
    expect(third.messages).toEqual([{ ...message("a", "Hello", "done"), branches: ["a", "c"] }]);
  });

  it("ignores an older snapshot", () => {
    let state = applySnapshot(emptyChat, snapshot(5, message("a", "new", "done")));
    state = applySnapshot(state, snapshot(4, message("a", "old", "running")));
    expect(state.messages[0]).toMatchObject({ text: "new", status: "done" });
  });

  it("never changes a finished reply", () => {
    let state = applySnapshot(emptyChat, snapshot(1, message("a", "final", "stopped")));
    state = applyDelta(state, delta("a", 5, " more"));
    expect(textOf(state, "a")).toBe("final");
    expect(hasGap(state)).toBe(false);
  });

  it("forgets the waiting deltas of a reply that has ended", () => {
    let state = applySnapshot(emptyChat, snapshot(1, message("a", "", "running")));
    state = applyDelta(state, delta("a", 9, "far"));
    state = applySnapshot(state, snapshot(2, message("a", "done now", "done")));
    expect(hasGap(state)).toBe(false);
  });

  it("keeps a bounded number of waiting deltas", () => {
    let state = applySnapshot(emptyChat, snapshot(1, message("a", "", "running")));
    for (let index = 0; index < 2000; index++) state = applyDelta(state, delta("a", 10 + index, "x"));
    expect(state.waiting.get("a")?.length).toBeLessThanOrEqual(512);
  });
});

describe.each(Array.from({ length: 200 }, (_, seed) => seed))("random delivery, seed %i", (seed) => {
  it("always shows a prefix of the true text, and all of it at the end", () => {
    const random = generator(seed);
    const deltas = split("a", TRUTH, random);
    const lossy = random() < 0.5;
    const kept = lossy ? deltas.filter(() => random() > 0.2) : deltas;
    const repeated = kept.filter(() => random() < 0.3);
    type Event = { delta: Delta } | { snapshot: ChatSnapshot };
    const events: Event[] = [...kept, ...repeated].map((item) => ({ delta: item }));
    for (let rev = 1; rev < 4; rev++) {
      const points = Array.from(TRUTH);
      const text = points.slice(0, Math.floor(random() * points.length)).join("");
      events.push({ snapshot: snapshot(rev, message("a", text, "running")) });
    }
    let state = applySnapshot(emptyChat, snapshot(0, message("a", "", "running")));
    let longest = 0;
    for (const event of shuffled(events, random)) {
      state = "delta" in event ? applyDelta(state, event.delta) : applySnapshot(state, event.snapshot);
      const shown = textOf(state, "a") ?? "";
      expect(TRUTH.startsWith(shown)).toBe(true);
      expect(shown.length).toBeGreaterThanOrEqual(longest);
      longest = shown.length;
    }
    if (!lossy) {
      expect(textOf(state, "a")).toBe(TRUTH);
      expect(hasGap(state)).toBe(false);
    }
    state = applySnapshot(state, snapshot(9, message("a", TRUTH, "done")));
    expect(textOf(state, "a")).toBe(TRUTH);
    expect(hasGap(state)).toBe(false);
  });
});
