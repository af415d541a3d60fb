import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { IntentSender } from "../src/intents.ts";
import { keepTranscript } from "../src/transcript-output.ts";
import { FakeModel } from "./fakes.ts";

const output = (rev: number, id = "t"): object => ({ metadata: { mlc_widget: { transcript: id, rev } } });

/** A notebook's page with one cell, whose outputs these are. */
function open(outputs: object[], collaborative: boolean): FakeModel {
  const list = {
    get length() { return outputs.length; },
    get: (at: number) => outputs[at],
    set: (at: number, item: object) => { outputs[at] = item; },
  };
  const model = new FakeModel({});
  model.widget_manager = { context: { model: { collaborative, cells: { length: 1, get: () => ({ outputs: list }) } } } };
  keepTranscript(model, new IntentSender(model, "c"), new AbortController().signal);
  return model;
}

/** The pages that have asked for the transcript. */
const asked = (model: FakeModel): string[] => [...new Map(
  (model.sent as { id: string; intent: { kind: string; page: string } }[])
    .filter(({ intent }) => intent.kind === "transcript")
    .map(({ id, intent }) => [id, intent.page]),
).values()];

describe("the transcript in the notebook of a page", () => {
  beforeEach(() => { vi.useFakeTimers(); });
  afterEach(() => { vi.useRealTimers(); });

  it.each([[false, 1000], [true, 5000]])("is asked for if it is late (shared: %s)", async (shared, patience) => {
    const model = open([{}, output(1)], shared);
    model.receive({ type: "kept", id: "t", rev: 2 });
    await vi.advanceTimersByTimeAsync(patience - 1);
    expect(asked(model)).toHaveLength(0);
    await vi.advanceTimersByTimeAsync(500);
    expect(asked(model)).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(60_000); // nobody answers: its turn comes once more
    expect(asked(model)).toHaveLength(2);
  });

  it("is not asked for if another page's update arrives", async () => {
    const outputs = [{}, output(1)];
    const model = open(outputs, true);
    model.receive({ type: "kept", id: "t", rev: 2 });
    await vi.advanceTimersByTimeAsync(1500);
    outputs[1] = output(2);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(asked(model)).toHaveLength(0);
  });

  it("is written by the page that it was sent to", async () => {
    const mine = [output(1), output(1, "another"), {}];
    const theirs = [output(1)];
    const models = [open(mine, true), open(theirs, true)] as const;
    for (const model of models) model.receive({ type: "kept", id: "t", rev: 2 });
    await vi.advanceTimersByTimeAsync(6000);
    const [page, other] = models.map((model) => asked(model)[0]);
    expect(page).not.toBe(other);
    for (const model of models) model.receive({ type: "transcript", id: "t", rev: 2, page, output: output(2) });
    expect(mine).toEqual([output(2), output(1, "another"), {}]);
    expect(theirs).toEqual([output(1)]);
  });
});
