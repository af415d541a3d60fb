/** Keeps the end of a growing log in view, except while the reader has scrolled away from it. */

/** Distance from the end, in pixels, that still counts as the end. */
const NEAR = 32;

export class StickyScroll {
  readonly #box: HTMLElement;
  readonly #onChange: (following: boolean) => void;
  #following = true;
  #width = 0;
  #height = 0;

  constructor(box: HTMLElement, signal: AbortSignal, onChange: (following: boolean) => void) {
    this.#box = box;
    this.#onChange = onChange;
    box.addEventListener(
      "scroll",
      () => {
        const resized = box.clientWidth !== this.#width || box.clientHeight !== this.#height;
        // The browser scrolls a box by itself when its size changes; that is not the reader.
        if (resized && this.#following) this.grown();
        else this.#set(box.scrollHeight - box.scrollTop - box.clientHeight <= NEAR);
      },
      { signal, passive: true },
    );
  }

  /** To be called after the content has grown, or the box has another size. */
  grown(): void {
    this.#width = this.#box.clientWidth;
    this.#height = this.#box.clientHeight;
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
