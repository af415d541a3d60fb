import { expect, it } from "vitest";

import { StickyScroll } from "../src/scroll.ts";

/** A box of 100 pixels whose content has 500. */
class Box extends EventTarget {
  clientWidth = 300;
  clientHeight = 100;
  scrollHeight = 500;
  scrollTop = 400;

  scroll(top: number): void {
    this.scrollTop = top;
    this.dispatchEvent(new Event("scroll"));
  }
}

const sticky = (): { box: Box; scroll: StickyScroll; following: boolean[] } => {
  const box = new Box();
  const following: boolean[] = [];
  const scroll = new StickyScroll(
    box as unknown as HTMLElement, new AbortController().signal, (now) => { following.push(now); });
  scroll.grown();
  return { box, scroll, following };
};

it("a reader who has scrolled away stays there, until the end again", () => {
  const { box, scroll, following } = sticky();
  box.scroll(200);
  box.scrollHeight = 600;
  scroll.grown();
  expect(box.scrollTop).toBe(200);
  box.scroll(500);
  expect(following).toEqual([false, true]);
});

it("what the browser scrolls when the box is resized does not lose the end", () => {
  const { box, scroll, following } = sticky();
  box.clientWidth = 150;
  box.scrollHeight = 1000;
  box.scroll(350); // comes before the observer of sizes is called
  scroll.grown();
  expect(box.scrollTop).toBe(1000);
  box.scroll(900);
  expect(following).toEqual([]);
  box.scroll(500); // by the reader
  expect(following).toEqual([false]);
});
