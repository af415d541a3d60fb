import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { IntentSender } from "../src/intents.ts";
import { FakeModel } from "./fakes.ts";

beforeEach(() => { vi.useFakeTimers(); });
afterEach(() => { vi.useRealTimers(); });

const idOf = (content: unknown): string => (content as { id: string }).id;
interface Control {
  channel: string;
  header: { msg_type: string; session: string };
  content: { comm_id: string; data: { method: string; content: { id: string } } };
}

/** A host whose comm leaves the shared subshell and gets its own when the test says so. */
function withSubshells(subshellId: string | null = "shared") {
  const comm = { commsOverSubshells: "perCommTarget", subshellId };
  const model = new FakeModel({});
  model.widget_manager = { get_model: () => Promise.resolve({ comm: { jsServicesComm: comm } }) };
  return { model, comm };
}

describe("IntentSender", () => {
  it("uses only the control channel if that is answered", async () => {
    const model = new FakeModel({}).withControl();
    const sender = new IntentSender(model, "c");
    const sent = sender.send({ kind: "stop" });
    const message = model.control[0] as Control;
    expect(message).toMatchObject({
      channel: "control",
      header: { msg_type: "comm_msg", session: "client" },
      content: { comm_id: "c", data: { method: "custom", content: { type: "intent", intent: { kind: "stop" } } } },
    });
    sender.acknowledge({ intent: idOf(message.content.data.content), error: null });
    await sent;
    expect(model.sent).toEqual([]);
  });

  it("sends the same intent over the comm when the control channel is silent, then says that it waits", async () => {
    const model = new FakeModel({}).withControl();
    const sender = new IntentSender(model, "c");
    const onWaiting = vi.fn();
    const sent = sender.send({ kind: "send", text: "hi" }, { onWaiting });
    const id = (model.control[0] as Control).content.data.content.id;
    await vi.advanceTimersByTimeAsync(600);
    expect(model.sent.map(idOf)).toEqual([id]);
    expect(onWaiting).not.toHaveBeenCalled();
    await vi.advanceTimersByTimeAsync(600);
    expect(onWaiting).toHaveBeenCalledOnce();
    sender.acknowledge({ intent: id, error: null });
    await sent;
  });

  it("uses the comm alone where there is no control channel", async () => {
    const model = new FakeModel({});
    const sender = new IntentSender(model, "c");
    const sent = sender.send({ kind: "stop" });
    await vi.advanceTimersByTimeAsync(0);
    sender.acknowledge({ intent: idOf(model.sent[0]), error: null });
    await sent;
  });

  it("survives a host whose private API throws", async () => {
    const model = new FakeModel({ _control: true });
    model.widget_manager = {
      get kernel(): unknown { throw new Error("private"); },
      get_model: () => Promise.reject(new Error("unknown model")),
    };
    const sender = new IntentSender(model, "c");
    const sent = sender.send({ kind: "stop" });
    await vi.advanceTimersByTimeAsync(0);
    sender.acknowledge({ intent: idOf(model.sent[0]), error: null });
    await sent;
  });

  it("gives the comm its own subshell where the host has them, and waits for it", async () => {
    const { model, comm } = withSubshells();
    const sender = new IntentSender(model, "c");
    const sent = sender.send({ kind: "stop" });
    await vi.advanceTimersByTimeAsync(100);
    expect(comm.commsOverSubshells).toBe("perComm");
    expect(model.sent).toEqual([]);
    comm.subshellId = "own";
    await vi.advanceTimersByTimeAsync(20);
    sender.acknowledge({ intent: idOf(model.sent[0]), error: null });
    await sent;
  });

  it.each([null, "shared"])("sends again to a subshell that starts late, after %s", async (before) => {
    const { model, comm } = withSubshells(before);
    const sender = new IntentSender(model, "c");
    const onWaiting = vi.fn();
    const sent = sender.send({ kind: "stop" }, { onWaiting });
    await vi.advanceTimersByTimeAsync(4000);
    expect(onWaiting).toHaveBeenCalledOnce();
    expect(model.sent).toHaveLength(1);
    comm.subshellId = "own";
    await vi.advanceTimersByTimeAsync(2000);
    expect(model.sent.map(idOf)).toEqual([idOf(model.sent[0]), idOf(model.sent[0])]);
    sender.acknowledge({ intent: idOf(model.sent[0]), error: null });
    await sent;
    // The next one needs to wait no more.
    const next = sender.send({ kind: "stop" });
    await vi.advanceTimersByTimeAsync(0);
    sender.acknowledge({ intent: idOf(model.sent[2]), error: null });
    await next;
  });

  it("throws the reason why an intent was refused", async () => {
    const model = new FakeModel({});
    const sender = new IntentSender(model, "c");
    const sent = sender.send({ kind: "send", text: "hi" });
    await vi.advanceTimersByTimeAsync(0);
    sender.acknowledge({ intent: idOf(model.sent[0]), error: "The engine was terminated." });
    await expect(sent).rejects.toThrow("The engine was terminated.");
  });

  it("rejects when its signal aborts", async () => {
    const controller = new AbortController();
    const sender = new IntentSender(new FakeModel({}), "c");
    const sent = sender.send({ kind: "stop" }, { signal: controller.signal });
    controller.abort();
    await expect(sent).rejects.toThrow("closed");
  });
});
