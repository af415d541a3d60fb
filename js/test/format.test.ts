import { describe, expect, it } from "vitest";

import {
  formatBytes, formatBytesOf, formatClock, formatDuration, formatRate, formatSpeed, formatTokens, joinFacts, modelName,
} from "../src/format.ts";

describe("formatted numbers", () => {
  it.each([
    [null, ""], [0, "0 B"], [999, "999 B"], [1000, "1.0 kB"], [999_499, "999 kB"], [999_960, "1.0 MB"],
    [12_345_678, "12.3 MB"], [123_456_789, "123 MB"], [4.2e9, "4.2 GB"], [Number.NaN, ""],
  ])("bytes %s", (bytes, shown) => { expect(formatBytes(bytes)).toBe(shown); });

  it.each([
    [1_000_000, 4_000_000, "1.0 of 4.0 MB"], [500_000, 4_000_000, "500 kB of 4.0 MB"],
    [4_000_000, 4_000_000, "4.0 MB"], [5_000, null, "5.0 kB"], [null, 4, ""],
  ])("bytes %s of %s", (done, total, shown) => { expect(formatBytesOf(done, total)).toBe(shown); });

  it.each([
    [null, ""], [0.0421, "42 ms"], [0.9996, "1.0 s"], [9.96, "10 s"], [59.4, "59 s"], [60, "1 min"],
    [125, "2 min 5 s"], [3780, "1 h 3 min"], [-1, ""],
  ])("duration %s", (seconds, shown) => { expect(formatDuration(seconds)).toBe(shown); });

  it("clocks, speeds, rates, tokens", () => {
    expect(formatClock(0.9)).toBe("0 s");
    expect(formatClock(64.2)).toBe("1 min 4 s");
    expect(formatSpeed(8_100_000)).toBe("8.1 MB/s");
    expect(formatSpeed(0)).toBe("");
    expect(formatRate(412.4)).toBe("412 tok/s");
    expect(formatRate(3.14)).toBe("3.1 tok/s");
    expect(formatTokens(1)).toBe("1 token");
    expect(formatTokens(12_345)).toBe("12,345 tokens");
    expect(joinFacts("a", "", "b")).toBe("a · b");
  });

  it.each([
    ["demo", "demo"], ["/models/My model/", "My model"], ["C:\\models\\tiny", "tiny"],
    ["HF://mlc-ai/Llama-3.2-1B-Instruct-q4f16_1-MLC@main", "Llama-3.2-1B-Instruct-q4f16_1-MLC"], ["", ""],
    ["demo, /models/b", "demo, b"], ["/models/a@b.gguf", "a@b.gguf"],
    ["HF://u/r/Q4/a.Q4_0.gguf@refs/pr/1#sha256=00ff", "a.Q4_0.gguf"],
    ["PYPI://pkg==1.0/pkg/a.Q4_1.gguf#sha256=00ff", "a.Q4_1.gguf"],
  ])("model %s", (id, name) => { expect(modelName(id)).toBe(name); });
});
