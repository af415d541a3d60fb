import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { Courier } from "../src/intents.ts";
import { FakeModel } from "./fakes.ts";

beforeEach(() => { vi.useFakeTimers(); });
afterEach(() => { vi.useRealTimers(); });

const idOf = (content: unknown): string => (content as { id: string }).id;
interface Control {
  channel: string;
  header: { msg_type: string; session: string };
  content: { comm_id: string; data: { method: string; content: { id: string } } };
}

describe("Courier", () => {
  it("goes by the control channel, and only there, when it is answered", async () => {
    const model = new FakeModel({}).withControl();
    const courier = new Courier(model, "c");
    const sent = courier.send({ kind: "stop" });
    const message = model.control[0] as Control;
    expect(message).toMatchObject({
      channel: "control",
      header: { msg_type: "comm_msg", session: "client" },
      content: { comm_id: "c", data: { method: "custom", content: { type: "intent", intent: { kind: "stop" } } } },
    });
    courier.acknowledge({ intent: idOf(message.content.data.content), error: null });
    await sent;
    expect(model.sent).toEqual([]);
  });

  it("repeats the same intent by the comm when control is silent, then says that it waits", async () => {
    const model = new FakeModel({}).withControl();
    const courier = new Courier(model, "c");
    const onWaiting = vi.fn();
    const sent = courier.send({ kind: "send", text: "hi" }, { onWaiting });
    const id = (model.control[0] as Control).content.data.content.id;
    await vi.advanceTimersByTimeAsync(600);
    expect(model.sent.map(idOf)).toEqual([id]);
    expect(onWaiting).not.toHaveBeenCalled();
    await vi.advanceTimersByTimeAsync(600);
    expect(onWaiting).toHaveBeenCalledOnce();
    courier.acknowledge({ intent: id, error: null });
    await sent;
  });

  it("uses the comm alone where there is no control channel", async () => {
    const model = new FakeModel({});
    const courier = new Courier(model, "c");
    const sent = courier.send({ kind: "stop" });
    await vi.advanceTimersByTimeAsync(0);
    courier.acknowledge({ intent: idOf(model.sent[0]), error: null });
    await sent;
  });

  it("survives a host whose private parts throw", async () => {
    const model = new FakeModel({ _control: true });
    model.widget_manager = {
      get kernel(): unknown { throw new Error("private"); },
      get_model: () => Promise.reject(new Error("unknown model")),
    };
    const courier = new Courier(model, "c");
    const sent = courier.send({ kind: "stop" });
    await vi.advanceTimersByTimeAsync(0);
    courier.acknowledge({ intent: idOf(model.sent[0]), error: null });
    await sent;
  });

  it("gives the comm its own subshell where the host has them", async () => {
    const comm = { commsOverSubshells: "perCommTarget", subshellStarted: Promise.resolve() };
    const model = new FakeModel({});
    model.widget_manager = { get_model: () => Promise.resolve({ comm: { jsServicesComm: comm } }) };
    const courier = new Courier(model, "c");
    const sent = courier.send({ kind: "stop" });
    await vi.advanceTimersByTimeAsync(0);
    expect(comm.commsOverSubshells).toBe("perComm");
    courier.acknowledge({ intent: idOf(model.sent[0]), error: null });
    await sent;
  });

  it("throws the reason of a refusal", async () => {
    const model = new FakeModel({});
    const courier = new Courier(model, "c");
    const sent = courier.send({ kind: "send", text: "hi" });
    await vi.advanceTimersByTimeAsync(0);
    courier.acknowledge({ intent: idOf(model.sent[0]), error: "The engine was terminated." });
    await expect(sent).rejects.toThrow("The engine was terminated.");
  });

  it("ends with its signal", async () => {
    const controller = new AbortController();
    const courier = new Courier(new FakeModel({}), "c");
    const sent = courier.send({ kind: "stop" }, { signal: controller.signal });
    controller.abort();
    await expect(sent).rejects.toThrow("closed");
  });
});
