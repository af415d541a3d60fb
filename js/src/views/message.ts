/** One message of the conversation. An update touches only the nodes that changed. */

import { copyText } from "../copy.ts";
import { h, setAttribute, setText, show } from "../dom.ts";
import { formatCount, formatDuration, formatPercent, formatRate, joinFacts } from "../format.ts";
import type { Intent, Message, Question, Stats, Token } from "../protocol.ts";
import { ApprovalForm } from "./approval.ts";
import { iconButton, ICONS, MOMENT, relabel } from "./buttons.ts";
import { ReplyContent, ResultContent, UserContent } from "./content.ts";
import { Editor } from "./editor.ts";
import { CallForm } from "./results.ts";
import { TokensView } from "./tokens.ts";

/** What the view of a message depends on besides the message. */
export interface Surroundings {
  readonly modelReady: boolean;
  readonly connected: boolean;
  /** Size of the context window in tokens; null if unknown. */
  readonly window: number | null;
  /** Whether it is the last message. */
  readonly last: boolean;
}

export interface MessageActions {
  readonly send: (intent: Intent) => Promise<void>;
  /** Announces a text to screen readers. */
  readonly say: (text: string) => void;
}

export function statsText(stats: Stats | null, window: number | null): string {
  if (!stats) return "";
  const first = formatDuration(stats.ttftS);
  const { promptTokens: put, completionTokens: got } = stats;
  return joinFacts(
    first && `first token ${first}`,
    formatRate(stats.tokensPerS),
    put === null || got === null ? "" : `${formatCount(put)} in, ${formatCount(got)} out`,
    put === null || got === null || !window ? "" : `context ${formatPercent((put + got) / window)}`,
  );
}

/** The state of a reply, in words. */
export function stateText(message: Message, modelReady: boolean): string {
  switch (message.status) {
    case "queued":
      return modelReady ? "Queued" : "Waiting for the model";
    case "running":
      return noteText(message);
    case "stopped":
      return joinFacts("Stopped", callsText(message), noteText(message));
    case "done":
      return joinFacts(message.finish === "length" ? "Cut off at the token limit" : "", callsText(message), noteText(message));
    default:
      return joinFacts(callsText(message), noteText(message));
  }
}

/** Whether the tool calls of a finished reply are complete; those of one that was cut off may not be. */
function callsAreWhole({ toolCalls, status, finish }: Message): boolean {
  return toolCalls.length > 0 && status === "done" && (finish === "" || finish === "tool_calls");
}

function callsText(message: Message): string {
  if (message.callsStopped) return "Its calls were stopped";
  return message.toolCalls.length === 0 || callsAreWhole(message) ? "" : "Its calls may be incomplete and were not made";
}

function noteText({ resumed, repeats }: Message): string {
  return joinFacts(
    repeats ? "It repeats itself; a higher repetition penalty may help" : "",
    resumed === null ? ""
      : resumed ? "The worker was restarted, and the reply continued"
        : "The worker was restarted; the continued reply may be worded differently",
  );
}

export class MessageView {
  readonly node: HTMLElement;
  readonly #body = h("div", { class: "mlcw-body" });
  readonly #content: UserContent | ReplyContent | ResultContent;
  readonly #dots = h("div", { class: "mlcw-dots", "aria-hidden": "true" }, h("i"), h("i"), h("i"));
  readonly #error = h("div", { class: "mlcw-error-text" });
  readonly #retry = h("button", { class: "mlcw-link", type: "button" }, "Try again");
  readonly #problem = h("div", { class: "mlcw-problem" }, this.#error, this.#retry);
  readonly #facts = h("span", { class: "mlcw-facts" });
  readonly #cancel = h("button", { class: "mlcw-link", type: "button" }, "Cancel");
  readonly #place = h("span", { class: "mlcw-place" });
  readonly #branches: HTMLElement;
  readonly #tools: HTMLElement;
  readonly #foot: HTMLElement;
  readonly #again: HTMLButtonElement;
  readonly #edit: HTMLButtonElement;
  readonly #probabilities: HTMLButtonElement;
  readonly #back: HTMLButtonElement;
  readonly #forward: HTMLButtonElement;
  readonly #actions: MessageActions;
  readonly #signal: AbortSignal;
  #editor: Editor | null = null;
  #calls: CallForm | null = null;
  #approvals: ApprovalForm | null = null;
  #tokens: TokensView | null = null;
  #message: Message;
  #shown: Message | null = null;
  #around: Surroundings | null = null;

  constructor(message: Message, actions: MessageActions, signal: AbortSignal) {
    this.#message = message;
    this.#actions = actions;
    this.#signal = signal;
    const mine = message.role === "user";
    const result = message.role === "tool";
    this.#content = mine ? new UserContent(this.#body)
      : result ? new ResultContent(this.#body) : new ReplyContent(this.#body, signal);
    const tool = (path: string, label: string, onClick: () => void): HTMLButtonElement =>
      iconButton(path, label, onClick, signal);
    const copy = tool(ICONS.copy, mine ? "Copy message" : result ? "Copy result" : "Copy reply", () => void this.#copy(copy));
    this.#again = tool(ICONS.again, mine || result ? "Answer this" : "Regenerate", () => {
      this.#send({ kind: "retry", reply: this.#message.id });
    });
    this.#edit = tool(ICONS.edit, "Edit message", () => { this.#beginEdit(); });
    this.#probabilities = tool(ICONS.bars, "Token probabilities", () => { this.#toggleTokens(); });
    setAttribute(this.#probabilities, "aria-expanded", "false");
    const remove = tool(ICONS.remove, "Delete", () => { this.#remove(remove); });
    remove.dataset["mlcwTool"] = "delete"; // for styles/reply.css
    this.#back = tool(ICONS.back, "Previous version", () => { this.#step(-1); });
    this.#forward = tool(ICONS.forward, "Next version", () => { this.#step(1); });
    this.#branches = h("span", { class: "mlcw-branches", role: "group", "aria-label": "Versions" },
      this.#back, this.#place, this.#forward);
    this.#tools = h("span", { class: "mlcw-tools" }, copy, this.#probabilities, this.#again, this.#edit, remove);
    this.#foot = h("div", { class: "mlcw-foot" }, this.#branches, this.#facts, this.#cancel, this.#tools);
    this.node = h(
      "li",
      { class: `mlcw-message ${mine ? "mlcw-user" : result ? "mlcw-tool-result" : "mlcw-assistant"}` },
      h("span", { class: "mlcw-sr" }, mine ? "You: " : result ? "Tool: " : "Model: "),
      ...(this.#content instanceof ReplyContent ? [this.#content.thoughts] : []),
      this.#body,
      this.#dots,
      this.#problem,
      this.#foot,
    );
    show(this.#edit, mine);
    this.#retry.addEventListener("click", () => { this.#send({ kind: "retry", reply: this.#message.id }); }, { signal });
    this.#cancel.addEventListener("click", () => { this.#send({ kind: "stop", reply: this.#message.id }); }, { signal });
  }

  update(message: Message, around: Surroundings): void {
    if (message === this.#shown && same(around, this.#around)) return;
    this.#shown = this.#message = message;
    this.#around = around;
    const { status } = message;
    const ended = status !== "running" && status !== "queued";
    const empty = this.#content.update(message, !ended);
    if (message.tokens === 0) this.#closeTokens();
    show(this.#body, !empty && !this.#editor && !this.#tokens);
    show(this.#probabilities, message.tokens > 0);
    show(this.#dots, status === "running" && empty && message.reasoning === "" && message.text === "");
    setText(this.#error, message.error?.message ?? "");
    show(this.#problem, status === "error");
    show(this.#retry, around.connected);
    setText(this.#facts, joinFacts(stateText(message, around.modelReady), statsText(message.stats, around.window)));
    show(this.#cancel, status === "queued" && around.connected);
    show(this.#again, message.role === "assistant" ? status !== "error" : around.last);
    show(this.#tools, ended);
    for (const button of this.#tools.querySelectorAll("button")) {
      if (button.title.startsWith("Copy")) continue;
      button.disabled = !around.connected;
    }
    this.#drawBranches(message, around.connected);
    show(this.#foot, ended || status === "queued" || message.branches.length > 1
      || message.resumed !== null || message.repeats);
    this.#drawQuestions(around.connected ? message.questions : []);
    this.#drawCalls(message, ended && around.last && around.connected && message.questions.length === 0);
    setAttribute(this.node, "data-mlcw-status", status);
    setAttribute(this.node, "data-mlcw-last", around.last ? "" : null);
    setAttribute(this.node, "aria-busy", status === "running" ? "true" : null);
  }

  /** Shows the tokens that were asked for. */
  showTokens(tokens: readonly Token[]): void {
    this.#tokens?.update(tokens);
  }

  #toggleTokens(): void {
    if (this.#tokens) {
      this.#closeTokens();
      return;
    }
    this.#tokens = new TokensView(this.#signal);
    this.#body.after(this.#tokens.node);
    show(this.#body, false);
    setAttribute(this.#probabilities, "aria-expanded", "true");
    this.#send({ kind: "tokens", reply: this.#message.id });
  }

  #closeTokens(): void {
    if (!this.#tokens) return;
    this.#tokens.node.remove();
    this.#tokens = null;
    show(this.#body, true);
    setAttribute(this.#probabilities, "aria-expanded", "false");
  }

  /** Begins to edit the message, if it is the user's and may be edited now. */
  edit(): void {
    if (!this.#edit.hidden && !this.#edit.disabled && !this.#tools.hidden) this.#beginEdit();
  }

  #drawQuestions(questions: readonly Question[]): void {
    if (questions.length > 0 && !this.#approvals) {
      this.#approvals = new ApprovalForm((call, decision) =>
        this.#actions.send({ kind: "allow", reply: this.#message.id, call, decision }), this.#actions.say, this.#signal);
      this.#body.after(this.#approvals.node);
    }
    this.#approvals?.update(questions);
  }

  /** Shows a form for the results of the last reply's tool calls. */
  #drawCalls(message: Message, open: boolean): void {
    if (!open || !callsAreWhole(message)) {
      this.#calls?.node.remove();
      this.#calls = null;
      return;
    }
    if (!this.#calls) {
      this.#calls = new CallForm((results) =>
        this.#actions.send({ kind: "results", reply: this.#message.id, results }),
      () => { this.#send({ kind: "stop", reply: this.#message.id }); }, this.#signal);
      this.#body.after(this.#calls.node);
    }
    this.#calls.update(message);
  }

  #drawBranches({ branches, id }: Message, connected: boolean): void {
    show(this.#branches, branches.length > 1);
    this.#foot.classList.toggle("mlcw-branched", branches.length > 1);
    const at = branches.indexOf(id);
    setText(this.#place, `${at + 1}/${branches.length}`);
    this.#back.disabled = !connected || at <= 0;
    this.#forward.disabled = !connected || at >= branches.length - 1;
  }

  #send(intent: Intent): void {
    void this.#actions.send(intent).catch(() => undefined); // the composer says why not
  }

  #step(by: number): void {
    const { branches, id } = this.#message;
    const message = branches[branches.indexOf(id) + by];
    if (message === undefined) return;
    this.#actions.say(`Version ${branches.indexOf(message) + 1} of ${branches.length}`);
    this.#send({ kind: "select", message });
  }

  async #copy(button: HTMLButtonElement): Promise<void> {
    const { label } = { label: button.title };
    const copied = await copyText(this.#content.plain(this.#message));
    relabel(button, copied ? ICONS.check : ICONS.alert, copied ? "Copied" : "Not copied: the browser does not allow it");
    this.#actions.say(copied ? "Copied" : "Not copied");
    setTimeout(() => { relabel(button, ICONS.copy, label); }, MOMENT);
  }

  /** Deletes when pressed a second time, since all later messages are deleted as well. */
  #remove(button: HTMLButtonElement): void {
    if (button.classList.contains("mlcw-sure")) {
      this.#send({ kind: "delete", message: this.#message.id });
      return;
    }
    const question = this.#around?.last === true ? "Delete?" : "Delete this message and all that follow it?";
    button.classList.add("mlcw-sure");
    relabel(button, ICONS.remove, question);
    button.append(h("span", { "aria-hidden": "true" }, question));
    this.#actions.say(`${question} Press again to delete.`);
    setTimeout(() => {
      button.classList.remove("mlcw-sure");
      relabel(button, ICONS.remove, "Delete");
    }, 2 * MOMENT);
  }

  #beginEdit(): void {
    if (this.#editor) return;
    const end = (): void => {
      this.#editor?.node.remove();
      this.#editor = null;
      show(this.#body, true);
      show(this.#foot, true);
      this.node.classList.remove("mlcw-editing");
      this.#edit.focus();
    };
    this.#editor = new Editor(this.#message.text, {
      save: async (text) => {
        await this.#actions.send({ kind: "edit", message: this.#message.id, text });
        end();
      },
      cancel: end,
    }, this.#signal);
    this.#body.after(this.#editor.node);
    this.node.classList.add("mlcw-editing");
    show(this.#body, false);
    show(this.#foot, false);
    this.#editor.begin();
  }
}

function same(one: Surroundings, other: Surroundings | null): boolean {
  return other !== null && one.connected === other.connected && one.last === other.last
    && one.modelReady === other.modelReady && one.window === other.window;
}
