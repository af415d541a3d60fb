/** The content of messages of each role. An update touches only the nodes that changed. */

import { indentJson, isJson, splitThoughts } from "../answer.ts";
import { copyText } from "../copy.ts";
import { h, icon, setAttribute, setText, show } from "../dom.ts";
import { formatCount } from "../format.ts";
import { codeNode } from "../markdown/nodes.ts";
import { patchChildren } from "../markdown/patch.ts";
import { MarkdownView } from "../markdown/view.ts";
import type { Message, SentAttachment } from "../protocol.ts";
import { MOMENT } from "./buttons.ts";

/** A message of the user's, shown as plain text, and what went with it, collapsed. */
export class UserContent {
  readonly #text = h("div");
  readonly #attachments = h("div", { class: "mlcw-sent" });
  #shown = "";

  constructor(body: HTMLElement) {
    setAttribute(body, "dir", "auto"); // that of the text, as the names below have their own
    body.append(this.#text, this.#attachments);
  }

  update({ text, attachments }: Message): boolean {
    setText(this.#text, text);
    show(this.#text, text.trim() !== "" || attachments.length === 0);
    const now = JSON.stringify(attachments);
    if (now !== this.#shown) {
      this.#shown = now;
      this.#attachments.replaceChildren(...attachments.map(sentNode));
    }
    show(this.#attachments, attachments.length > 0);
    return false;
  }

  plain(message: Message): string {
    return message.text;
  }
}

function sentNode({ name, text, length, variable }: SentAttachment): HTMLElement {
  const rest = length > text.length ? `\n… (${(length - text.length).toLocaleString("en-US")} more characters)` : "";
  return h("details", {},
    h("summary", {},
      h("span", { class: "mlcw-chip-name", dir: "auto" }, variable ? `{${name}}` : name),
      h("span", { class: "mlcw-chip-facts" }, `${formatCount(length)} characters`)),
    h("pre", { class: "mlcw-sent-text", dir: "auto", tabindex: "0", role: "region", "aria-label": name }, text + rest));
}

/** The result of a tool, collapsed. */
export class ResultContent {
  readonly #summary = h("summary", {});
  readonly #code = h("div", { class: "mlcw-md" });

  constructor(body: HTMLElement) {
    body.append(h("details", { class: "mlcw-think" }, this.#summary, this.#code));
  }

  update({ name, text }: Message): boolean {
    setText(this.#summary, `Result of ${name || "a tool"}`);
    const json = isJson(text, false, false);
    patchChildren(this.#code, [codeNode(json ? indentJson(text) : text, json ? "json" : "", false)]);
    return false;
  }

  plain(message: Message): string {
    return message.text;
  }
}

/** A reply of the model: thoughts (collapsed), Markdown or JSON, and tool calls. */
export class ReplyContent {
  readonly #summary = h("summary", {});
  readonly #thoughts = h("div", { class: "mlcw-thoughts", dir: "auto" });
  readonly thoughts = h("details", { class: "mlcw-think" }, this.#summary, this.#thoughts);
  readonly #markdown: MarkdownView;
  readonly #json = h("div", { class: "mlcw-md mlcw-json" });
  readonly #calls = h("div", { class: "mlcw-calls" });

  constructor(body: HTMLElement, signal: AbortSignal) {
    this.#markdown = new MarkdownView(signal);
    this.#json.addEventListener("click", (event) => {
      const button = event.target instanceof Element ? event.target.closest("button") : null;
      if (!button) return;
      void copyText(this.#json.querySelector("code")?.textContent ?? "").then((copied) => {
        button.textContent = copied ? "Copied" : "Not copied";
        setTimeout(() => { button.textContent = "Copy"; }, MOMENT);
      });
    }, { signal });
    body.append(this.#markdown.node, this.#json, this.#calls);
  }

  /** Returns whether the body is empty. */
  update(message: Message, growing: boolean): boolean {
    const { thoughts, text, thinking } = splitThoughts(message.text, message.reasoning, growing);
    show(this.thoughts, thoughts.trim() !== "" || thinking);
    setText(this.#summary, thinking ? "Thinking …" : "Thoughts");
    this.#summary.classList.toggle("mlcw-thinking", thinking);
    setText(this.#thoughts, thoughts.trim());
    const json = isJson(text, message.json, growing);
    show(this.#json, json);
    show(this.#markdown.node, !json);
    if (json) patchChildren(this.#json, [codeNode(indentJson(text), "json", growing)]);
    else this.#markdown.update(text, !growing);
    this.#drawCalls(message);
    return text.trim() === "" && message.toolCalls.length === message.questions.length;
  }

  #drawCalls({ toolCalls, questions }: Message): void {
    show(this.#calls, toolCalls.length > 0);
    while (this.#calls.children.length > toolCalls.length) this.#calls.lastChild?.remove();
    toolCalls.forEach((call, index) => {
      let node = this.#calls.children[index];
      if (!node) {
        node = h("div", { class: "mlcw-call" }, h("div", { class: "mlcw-call-name" }, icon(CALL), h("span")), h("div", { class: "mlcw-md" }));
        this.#calls.append(node);
      }
      show(node as HTMLElement, !questions.some((question) => question.call === index)); // the question shows it
      const name = node.querySelector("span");
      if (name) setText(name, `Calls ${call.name || "a tool"}`);
      const code = node.lastElementChild;
      if (code) patchChildren(code, call.arguments ? [codeNode(indentJson(call.arguments), "json", false)] : []);
    });
  }

  plain(message: Message): string {
    return splitThoughts(message.text, message.reasoning, false).text;
  }
}

const CALL = "M6 3.5 2.5 8 6 12.5M10 3.5 13.5 8 10 12.5";
