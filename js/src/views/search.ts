/** Search in a chat: a row below the header that marks what it finds and goes from one to the next. */

import { h, setAttribute, setText, show } from "../dom.ts";
import { iconButton, ICONS } from "./buttons.ts";

const MOST = 1000;

/** The ranges of `node`'s text that match, in any case; a match may go on in another element. */
export function findText(node: HTMLElement, query: string): Range[] {
  if (query.trim() === "") return [];
  const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
  const nodes: { readonly text: Text; readonly start: number }[] = [];
  let all = "";
  for (let at = walker.nextNode(); at; at = walker.nextNode()) {
    nodes.push({ text: at as Text, start: all.length });
    all += (at as Text).data;
  }
  const place = (offset: number, isEnd: boolean): readonly [Text, number] | null => {
    const found = nodes.findLast(({ start }) => (isEnd ? start < offset : start <= offset));
    return found ? [found.text, offset - found.start] : null;
  };
  const pattern = new RegExp(query.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"), "giu");
  const ranges: Range[] = [];
  for (const match of all.matchAll(pattern)) {
    const [start, end] = [place(match.index, false), place(match.index + match[0].length, true)];
    if (!start || !end) continue;
    const range = document.createRange();
    range.setStart(...start);
    range.setEnd(...end);
    ranges.push(range);
    if (ranges.length === MOST) break;
  }
  return ranges;
}

/** Marks ranges without a change of the page's nodes; all chats of a page share the two kinds of mark. */
class Marks {
  readonly #name: string;
  #ranges: readonly Range[] = [];

  constructor(name: string) {
    this.#name = name;
  }

  set(ranges: readonly Range[]): void {
    if (typeof CSS === "undefined" || typeof Highlight === "undefined" || !("highlights" in CSS)) return;
    const shared = CSS.highlights.get(this.#name) ?? new Highlight();
    CSS.highlights.set(this.#name, shared);
    for (const range of this.#ranges) shared.delete(range);
    for (const range of ranges) shared.add(range);
    this.#ranges = ranges;
  }
}

export class ChatSearch {
  readonly node: HTMLElement;
  readonly button: HTMLButtonElement;
  readonly #list: HTMLElement;
  readonly #input = h("input", { class: "mlcw-field", type: "search", "aria-label": "Search in this chat", placeholder: "Search in this chat", dir: "auto" });
  readonly #count = h("span", { class: "mlcw-search-count", role: "status" });
  readonly #all = new Marks("mlcw-found");
  readonly #one = new Marks("mlcw-found-now");
  readonly #steps: readonly HTMLButtonElement[];
  #ranges: readonly Range[] = [];
  #at = 0;

  /** Searches in the messages of `list`. */
  constructor(list: HTMLElement, signal: AbortSignal) {
    this.#list = list;
    this.button = iconButton(ICONS.search, "Search", () => { this.#toggle(); }, signal);
    setAttribute(this.button, "aria-expanded", "false");
    this.#steps = [
      iconButton(ICONS.up, "Previous match", () => { this.#go(-1); }, signal),
      iconButton(ICONS.down, "Next match", () => { this.#go(1); }, signal),
    ];
    const close = iconButton(ICONS.close, "Close search", () => { this.#toggle(); }, signal);
    this.node = h("div", { class: "mlcw-search", role: "search", hidden: true }, this.#input, this.#count, ...this.#steps, close);
    this.#input.addEventListener("input", () => {
      this.#at = 0;
      this.#find();
      this.#show();
    }, { signal });
    this.node.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") {
        event.stopPropagation(); // the answer goes on
        this.#toggle();
      } else if (event.key === "Enter" && event.target === this.#input) {
        event.preventDefault();
        this.#go(event.shiftKey ? -1 : 1);
      }
    }, { signal });
    signal.addEventListener("abort", () => { this.#mark([]); });
  }

  /** Searches again, as messages have changed. */
  refresh(): void {
    if (!this.node.hidden) this.#find();
  }

  #toggle(): void {
    show(this.node, this.node.hidden);
    const open = !this.node.hidden;
    setAttribute(this.button, "aria-expanded", String(open));
    this.#find();
    if (open) this.#input.select();
    (open ? this.#input : this.button).focus();
  }

  #find(): void {
    const bodies = [...this.#list.querySelectorAll<HTMLElement>(".mlcw-body")].filter((body) => !body.hidden);
    const query = this.node.hidden ? "" : this.#input.value;
    this.#ranges = bodies.flatMap((body) => findText(body, query)).slice(0, MOST);
    this.#at = Math.min(this.#at, Math.max(0, this.#ranges.length - 1));
    this.#mark(this.#ranges);
    const total = this.#ranges.length;
    setText(this.#count, query.trim() === "" ? "" : total === 0 ? "Not found" : `${String(this.#at + 1)} of ${String(total)}`);
    for (const step of this.#steps) step.disabled = total === 0;
  }

  #go(step: number): void {
    const total = this.#ranges.length;
    if (total === 0) return;
    this.#at = (this.#at + step + total) % total;
    this.#find();
    this.#show();
  }

  #mark(ranges: readonly Range[]): void {
    this.#all.set(ranges);
    this.#one.set(ranges.slice(this.#at, this.#at + 1));
  }

  /** Scrolls to the match. */
  #show(): void {
    this.#ranges[this.#at]?.startContainer.parentElement?.scrollIntoView({ block: "nearest" });
  }
}
