/** Shows Markdown that grows. Finished blocks are not parsed again. */

import type { Token } from "marked";
import { copyText } from "../copy.ts";
import { h } from "../dom.ts";
import { blockNode, lex, safeAddress } from "./nodes.ts";
import { closeOpenMarks, withoutUndecided } from "./partial.ts";
import { patchChildren } from "./patch.ts";
import type { VElement } from "./tree.ts";

/** Dispatched, and bubbling, when code should go into the notebook; its detail is a `CellRequest`. */
export const CELL_EVENT = "mlcw-cell";

export type CellAction = "insert" | "replace" | "run";

export interface CellRequest {
  readonly action: CellAction;
  readonly code: string;
  readonly button: HTMLButtonElement;
}

const COPIED_FOR_MS = 1500;

/**
 * So many blocks stand in `node`, and so many in each of the parts that follow them in a long text. Of the
 * parts that are done, the browser lays out and paints only those in view (styles/markdown.css), so that a
 * frame takes the same time however long the text is. A part that was never laid out has an unknown height,
 * which would move the end of the text, so parts that arrived at once are not marked as done.
 */
const FIRST = 16;
const PART = 4;
const HEADING = /^h\d$/;

export class MarkdownView {
  readonly node = h("div", { class: "mlcw-md" });
  #text = "";
  #complete = false;
  /** Length of the finished blocks' text. */
  #doneLength = 0;
  /** What the growing block is in, and the number of finished blocks in it. */
  #part = this.node;
  #previous: HTMLElement | null = null;
  #doneInPart = 0;
  /** Whether the part began in an earlier update, and so was laid out. */
  #drawn = false;
  /** Whether the last finished block is a heading. */
  #afterHeading = false;

  constructor(signal: AbortSignal) {
    this.node.addEventListener("click", (event) => { this.#activate(event); }, { signal });
    this.node.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.#activate(event);
    }, { signal });
  }

  update(source: string, complete: boolean): void {
    const text = source.replace(/\r\n?/g, "\n");
    if (text === this.#text && complete === this.#complete) return;
    if (!text.startsWith(this.#text.slice(0, this.#doneLength))) {
      this.#doneLength = this.#doneInPart = 0;
      this.#part = this.node;
      this.#previous = null;
      this.#afterHeading = false;
    }
    this.#text = text;
    this.#complete = complete;
    const tail = text.slice(this.#doneLength);
    const shown = complete ? tail : withoutUndecided(tail);
    try {
      this.#draw(shown, complete);
    } catch {
      // Text that is nested too deeply for the parser is shown as written.
      patchChildren(this.#part, [{ tag: "p", attributes: { class: "mlcw-md-raw" }, children: [shown] }], this.#doneInPart);
    }
  }

  #draw(tail: string, complete: boolean): void {
    const tokens = lex(tail, !complete);
    const last = tokens.findLastIndex((token) => token.type !== "space");
    const nodes: VElement[] = [];
    let finished = 0;
    let finishedNodes = 0;
    tokens.forEach((token, index) => {
      const growing = !complete && index === last;
      const node = blockNode(growing ? closed(token) : token, growing);
      if (node) nodes.push(node);
      if (index < last && tail.startsWith(token.raw, finished)) {
        finished += token.raw.length;
        finishedNodes = nodes.length;
      }
    });
    this.#patch(nodes, finishedNodes);
    this.#doneLength += finished;
  }

  /** Shows the blocks that follow the finished ones. The first `finished` of them will not change. */
  #patch(nodes: readonly VElement[], finished: number): void {
    let start = 0;
    for (let next = 0; next <= finished && next < nodes.length; next++) {
      const before = nodes[next - 1];
      if (before) this.#afterHeading = HEADING.test(before.tag);
      const full = this.#doneInPart + next - start >= (this.#part === this.node ? FIRST : PART);
      // What follows a heading is closer to it than to other blocks, so it stays in the same part.
      if (!full || this.#afterHeading) continue;
      patchChildren(this.#part, nodes.slice(start, next), this.#doneInPart);
      this.#beginPart();
      start = next;
    }
    patchChildren(this.#part, nodes.slice(start), this.#doneInPart);
    this.#doneInPart += finished - start;
    const last = nodes[finished - 1];
    if (last) this.#afterHeading = HEADING.test(last.tag);
    this.#drawn = true;
  }

  #beginPart(): void {
    // Not the part that ends now: its last block may have changed since it was laid out.
    if (this.#drawn) this.#previous?.classList.add("mlcw-md-done");
    this.#previous = this.#part === this.node ? null : this.#part;
    this.#drawn = false;
    this.#part = h("div", { class: "mlcw-md mlcw-md-part" });
    this.#doneInPart = 0;
    this.node.append(this.#part);
  }

  #activate(event: Event): void {
    const target = event.target instanceof Element ? event.target : null;
    const link = target?.closest("a");
    if (link && this.node.contains(link)) {
      const address = safeAddress(link.title);
      if (address !== null) window.open(address, "_blank", "noopener,noreferrer");
      event.preventDefault();
      return;
    }
    const button = target?.closest("button");
    if (button && event.type === "click") {
      const code = button.closest(".mlcw-code")?.querySelector("code")?.textContent ?? "";
      const action = (["insert", "replace", "run"] as const).find((name) => button.classList.contains(`mlcw-cell-${name}`));
      if (action) {
        const detail: CellRequest = { action, code: code.replace(/\n$/, ""), button };
        button.dispatchEvent(new CustomEvent(CELL_EVENT, { bubbles: true, detail }));
        return;
      }
      if (!button.classList.contains("mlcw-copy")) return;
      void copyText(code).then((copied) => {
        button.textContent = copied ? "Copied" : "Not copied";
        setTimeout(() => { button.textContent = "Copy"; }, COPIED_FOR_MS);
      });
    }
  }
}

/** A block with its open marks closed. */
function closed(token: Token): Token {
  if (token.type === "code" || token.type === "html" || token.type === "math") return token;
  const source = closeOpenMarks(token.raw);
  if (source === token.raw) return token;
  if (source.trim() === "") return { type: "space", raw: token.raw };
  const again = lex(source).filter((one) => one.type !== "space");
  return again.length === 1 && again[0]?.type === token.type ? again[0] : token;
}
