import { describe, expect, it } from "vitest";

import { messageType, parseAck, parseChat, parseDelta, parseEngine, readTrait } from "../src/protocol.ts";

const rubbish = [undefined, null, 0, "x", [], [1], {}, { rev: "x" }, { messages: 4 }, { progress: [] }];

describe("messages and traits are checked", () => {
  it.each(rubbish)("rubbish %j does no harm", (value) => {
    expect(parseEngine(value).state).toBe("idle");
    expect(parseChat(value).messages).toEqual([]);
    expect(parseDelta(value)).toBeNull();
    expect(parseAck(value)).toBeNull();
    expect(messageType(value)).toBe("");
  });

  it("messages without an id are dropped, unknown words become defaults", () => {
    const chat = parseChat({ rev: 2, messages: [{}, { id: "a", role: "root", status: "?", text: 5 }] });
    expect(chat).toEqual({
      rev: 2,
      saved: 0,
      title: "",
      earlier: null,
      messages: [{
        attachments: [], id: "a", role: "assistant", status: "done", text: "", finish: "", error: null, stats: null,
        reasoning: "", toolCalls: [], calling: false, callsStopped: false, questions: [], name: "", json: false, branches: [], resumed: null, repeats: false,
        tokens: 0,
      }],
    });
  });

  it("reads an engine", () => {
    const engine = parseEngine({
      rev: 3, state: "loading", model: "demo", device: "cpu",
      progress: { progress: 1.5, phase: "load", elapsed: 2, bytes_done: 5, bytes_total: 9, text: "t" },
      error: { type: "ModelFormatError", message: "no" },
      hang: { part: "everything", seconds: -1 },
    });
    expect(engine.hang).toEqual({ part: "worker", seconds: 0 });
    expect(parseEngine({ hang: true }).hang).toBeNull();
    expect(engine.progress).toMatchObject({ progress: 1, bytesDone: 5, bytesTotal: 9, bytesPerS: null });
    expect(engine.error?.message).toBe("no");
  });
});

describe("saved state", () => {
  it.each([
    ["\ue03c1/script>", "</script>"], ["a \ue03c1 b \ue03c0 c", "a < b \ue03c c"], ["\ue03c01", "\ue03c1"], ["plain", "plain"],
  ])("%j is decoded", (saved, meant) => { expect(readTrait({ deep: [saved] })).toEqual({ deep: [meant] }); });
});
