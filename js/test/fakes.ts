import type { Model } from "../src/host.ts";

type Callback = (...args: never[]) => void;

/** A model as anywidget provides it, which records what was sent. */
export class FakeModel implements Model {
  readonly sent: unknown[] = [];
  readonly control: unknown[] = [];
  widget_manager: unknown = undefined;
  readonly #traits: Record<string, unknown>;
  readonly #callbacks = new Map<string, Set<Callback>>();

  constructor(traits: Record<string, unknown>) {
    this.#traits = { _comm_id: "c", _control: false, ...traits };
  }

  /** Adds a kernel connection whose control channel records messages. */
  withControl(): this {
    this.#traits["_control"] = true;
    this.widget_manager = {
      kernel: {
        clientId: "client",
        username: "user",
        sendControlMessage: (message: unknown) => this.control.push(message),
      },
    };
    return this;
  }

  get(name: string): unknown { return this.#traits[name]; }
  send(content: unknown): void { this.sent.push(content); }
  on(event: string, callback: Callback): void {
    const set = this.#callbacks.get(event) ?? new Set();
    this.#callbacks.set(event, set.add(callback));
  }
  off(event: string, callback: Callback): void { this.#callbacks.get(event)?.delete(callback); }

  listeners(): number {
    return [...this.#callbacks.values()].reduce((sum, set) => sum + set.size, 0);
  }
  change(name: string, value: unknown): void {
    this.#traits[name] = value;
    this.#emit(`change:${name}`);
  }
  receive(content: unknown): void { this.#emit("msg:custom", content); }
  #emit(event: string, ...args: unknown[]): void {
    for (const callback of this.#callbacks.get(event) ?? []) (callback as (...args: unknown[]) => void)(...args);
  }
}
