/**
 * Marks what is around a widget, so that style sheets find what is to be hidden below it: the transcript
 * (styles/transcript.css) and what stands in for a widget that is not shown (widget/stand_in.py).
 *
 * `:has()` could find that output as well. But then the browser looks through all of a chat, from its end,
 * whenever an element is added to it, which takes more time than everything else in a frame.
 */

/** On the element of an output, and on `<html>` where outputs have no such element. */
const MARK = "data-mlcw-shows";
/** On the element in which a view is drawn. */
const VIEW = "data-mlcw-view";

/** The value for a view that stands in other widgets, and has no outputs of its own below it. */
const PART = "part";

/** JupyterLab's element of an output. */
const OUTPUT = ".jp-OutputArea-child";
/** VS Code's element around a widget, which styles/tokens.css keeps from being white. */
const BACKGROUND = ".cell-output-ipywidget-background";

/** Marks what is around `el` as long as it shows what is in `el`, until the signal aborts. */
export function markOutput(el: HTMLElement, view: string, signal: AbortSignal): void {
  if (signal.aborted) return;
  let marked: readonly Element[] = [];
  const update = (): void => {
    const shown = el.isConnected && el.hasChildNodes() && !signal.aborted;
    if (shown) el.setAttribute(VIEW, isWholeOutput(el) ? view : PART);
    else el.removeAttribute(VIEW);
    const before = marked;
    marked = shown ? placesOf(el) : [];
    for (const place of new Set([...before, ...marked])) draw(place);
  };
  // The host puts `el` into the page after it was rendered. Its size changes then, and when it is emptied or
  // taken out of the page.
  const resized = new ResizeObserver(update);
  resized.observe(el);
  signal.addEventListener("abort", () => {
    resized.disconnect();
    update();
  });
}

function placesOf(el: HTMLElement): Element[] {
  const output = el.closest(OUTPUT);
  if (output) return [output];
  const background = el.closest(BACKGROUND);
  return [
    ...(background ? [background] : []),
    ...(document.querySelector(OUTPUT) ? [] : [document.documentElement]),
  ];
}

function isWholeOutput(el: HTMLElement): boolean {
  return [el, el.parentElement].some((one) => one?.classList.contains("jp-OutputArea-output"));
}

function draw(place: Element): void {
  const shown = place.hasAttribute(VIEW) ? place : place.querySelector(`[${VIEW}]`);
  const view = shown?.getAttribute(VIEW) ?? null;
  if (place.getAttribute(MARK) === view) return;
  if (view === null) place.removeAttribute(MARK);
  else place.setAttribute(MARK, view);
}
