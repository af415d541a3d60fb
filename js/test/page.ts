/** A page with a box for the widget, anew for each test of the files that import this. */

import { afterEach, beforeEach } from "vitest";

import widget from "../src/index.ts";
import { FakeModel } from "./fakes.ts";

export let page: AbortController;
export let box: HTMLElement;
beforeEach(() => {
  page = new AbortController();
  box = document.createElement("div");
  document.body.replaceChildren(box);
});
afterEach(() => { page.abort(); });

/** Shows a widget with these traits in the box. */
export function show(traits: Record<string, unknown>): FakeModel {
  const model = new FakeModel(traits);
  widget.initialize({ model, signal: page.signal });
  widget.render({ model, el: box, signal: page.signal });
  return model;
}

export const frame = (): Promise<void> => new Promise((resolve) => { requestAnimationFrame(() => { resolve(); }); });

/** The first element in the box that matches. */
export const query = (selector: string): HTMLElement => {
  const found = box.querySelector<HTMLElement>(selector);
  if (!found) throw new Error(`nothing matches ${selector}`);
  return found;
};
