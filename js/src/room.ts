/** Fits a chat into what is visible of the host's page, and keeps its composer there as it grows. */

import { frameFollowsContent } from "./frame.ts";

/** The part of the screen that a chat may take where the host does not tell what is visible. */
const SHARE_OF_SCREEN = 0.8;
const SCROLLS = /^(?:auto|scroll|overlay)$/;

/** The ancestors that cut off what does not fit into them, from the nearest to the outermost. */
function clippers(node: HTMLElement): HTMLElement[] {
  const found: HTMLElement[] = [];
  for (let at = node.parentElement; at && at !== document.body; at = at.parentElement) {
    if (getComputedStyle(at).overflowY !== "visible") found.push(at);
  }
  return found;
}

/**
 * The height of the part of the page that shows the widget, in pixels. Hosts give many elements
 * `overflow: auto` that grow with their content; what counts is the outermost that scrolls, and
 * those with a greatest height, such as an output that was made to scroll.
 */
function visibleHeight(around: readonly HTMLElement[]): number {
  const scroller = around.findLast((item) => SCROLLS.test(getComputedStyle(item).overflowY));
  const limits = around.map((item) => parseFloat(getComputedStyle(item).maxHeight)).filter((limit) => limit > 0);
  const whole = frameFollowsContent() ? window.screen.availHeight * SHARE_OF_SCREEN : window.innerHeight;
  return Math.min(scroller?.clientHeight ?? whole, whole, ...limits);
}

export class Room {
  readonly #root: HTMLElement;
  readonly #composer: HTMLElement;
  readonly #signal: AbortSignal;
  #around: readonly HTMLElement[] | null = null;

  /** `root` gets the CSS variable `--mlcw-room`, the height of the part of the page that shows it. */
  constructor(root: HTMLElement, composer: HTMLElement, signal: AbortSignal) {
    this.#root = root;
    this.#composer = composer;
    this.#signal = signal;
  }

  /** Change the chat by `draw`; if its composer was in view before that, it is afterwards. */
  keep(draw: () => void): void {
    if (this.#around === null && this.#root.isConnected) this.#follow((this.#around = clippers(this.#root)));
    const was = this.#inView();
    draw();
    if (was && !this.#inView()) this.#composer.scrollIntoView({ block: "nearest" });
  }

  #follow(around: readonly HTMLElement[]): void {
    const measure = (): void => {
      const height = visibleHeight(around);
      if (height > 0) this.#root.style.setProperty("--mlcw-room", `${String(Math.floor(height))}px`);
    };
    const resized = new ResizeObserver(measure); // it also calls back at once
    for (const item of around.slice(-1)) resized.observe(item);
    window.addEventListener("resize", measure, { signal: this.#signal });
    this.#signal.addEventListener("abort", () => { resized.disconnect(); });
    measure();
  }

  #inView(): boolean {
    const { top, bottom, height } = this.#composer.getBoundingClientRect();
    if (height === 0 || bottom > window.innerHeight + 1 || top < 0) return false;
    return (this.#around ?? []).every((item) => {
      const { top: first } = item.getBoundingClientRect();
      return top >= first - 1 && bottom <= first + item.clientTop + item.clientHeight + 1;
    });
  }
}
