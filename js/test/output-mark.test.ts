import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { markOutput } from "../src/output-mark.ts";

/** Calls back when the test says so; the page of these tests has no layout. */
let resize: () => void;
let page: AbortController;
beforeEach(() => {
  page = new AbortController();
  document.body.replaceChildren();
  vi.stubGlobal("ResizeObserver", class {
    #connected = true;
    constructor(callback: () => void) { resize = (): void => { if (this.#connected) callback(); }; }
    observe(): void { /* as the test says */ }
    disconnect(): void { this.#connected = false; }
  });
});
afterEach(() => {
  page.abort();
  vi.unstubAllGlobals();
});

/** A cell's output in the page, and the element within it where the host puts the widget. */
function makeOutput(): { output: HTMLElement; place: HTMLElement } {
  const output = document.createElement("div");
  output.className = "jp-OutputArea-child";
  const place = document.createElement("div");
  place.className = "jp-OutputArea-output";
  output.append(place);
  const area = document.createElement("div");
  area.className = "jp-OutputArea";
  area.append(output);
  document.body.append(area);
  return { output, place };
}

function draw(): HTMLElement {
  const el = document.createElement("div");
  el.append("a chat");
  return el;
}

test("the output is marked while it shows the widget", () => {
  const { output, place } = makeOutput();
  const el = draw();
  markOutput(el, "chat", page.signal);
  resize();
  expect(output.dataset["mlcwShows"]).toBeUndefined();
  place.append(el);
  resize();
  expect(output.dataset["mlcwShows"]).toBe("chat");

  const content = [...el.childNodes];
  el.replaceChildren();
  resize();
  expect(output.dataset["mlcwShows"]).toBeUndefined();
  el.replaceChildren(...content);
  resize();
  expect(output.dataset["mlcwShows"]).toBe("chat");

  const other = makeOutput();
  other.place.append(el);
  resize();
  expect(output.dataset["mlcwShows"]).toBeUndefined();
  expect(other.output.dataset["mlcwShows"]).toBe("chat");
  page.abort();
  resize();
  expect(other.output.dataset["mlcwShows"]).toBeUndefined();
});

test("of widgets within others, no transcript follows, and the output is marked until the last is gone", () => {
  const { output, place } = makeOutput();
  const box = document.createElement("div");
  const inner = document.createElement("div");
  place.append(box);
  box.append(inner);
  const signals = [page, new AbortController()];
  for (const { signal } of signals) {
    const el = draw();
    inner.append(el);
    markOutput(el, "chat", signal);
    resize();
  }
  expect(output.dataset["mlcwShows"]).toBe("part");
  page.abort();
  expect(output.dataset["mlcwShows"]).toBe("part");
  signals[1]?.abort();
  expect(output.dataset["mlcwShows"]).toBeUndefined();
});

test("where outputs have no elements of their own, the page is marked, and what is white in VS Code", () => {
  const background = draw();
  background.className = "cell-output-ipywidget-background";
  document.body.append(background);
  markOutput(background, "chat", page.signal);
  resize();
  const places = [background, document.documentElement];
  expect(places.map((place) => place.dataset["mlcwShows"])).toEqual(["part", "part"]);
  page.abort();
  expect(places.map((place) => place.dataset["mlcwShows"])).toEqual([undefined, undefined]);
});

test("a view that is closed before it is drawn marks nothing", () => {
  const { output, place } = makeOutput();
  resize = (): void => undefined;
  page.abort();
  const el = draw();
  place.append(el);
  markOutput(el, "chat", page.signal);
  resize();
  expect(output.dataset["mlcwShows"]).toBeUndefined();
});
