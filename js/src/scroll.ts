/** Keeps the end of a growing log in sight, until the reader scrolls away, and from when they come back. */

/** Pixels from the end that still count as being there. */
const NEAR = 32;

export class StickyScroll {
  readonly #box: HTMLElement;
  readonly #onChange: (following: boolean) => void;
  #following = true;

  constructor(box: HTMLElement, signal: AbortSignal, onChange: (following: boolean) => void) {
    this.#box = box;
    this.#onChange = onChange;
    box.addEventListener(
      "scroll",
      () => {
        this.#set(box.scrollHeight - box.scrollTop - box.clientHeight <= NEAR);
      },
      { signal, passive: true },
    );
  }

  /** To call after the content has grown. */
  grown(): void {
    if (this.#following) this.#box.scrollTop = this.#box.scrollHeight;
  }

  toEnd(): void {
    this.#set(true);
    this.#box.scrollTop = this.#box.scrollHeight;
  }

  #set(following: boolean): void {
    if (following === this.#following) return;
    this.#following = following;
    this.#onChange(following);
  }
}
