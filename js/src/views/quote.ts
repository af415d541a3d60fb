/** "Ask about this": a button beside text that is selected in a reply, which quotes it into the composer. */

import { h, icon, show } from "../dom.ts";
import { ICONS } from "./buttons.ts";

/** A text as a quotation in Markdown. */
export function quotation(text: string): string {
  return text.trim().split("\n").map((line) => `> ${line}`.trimEnd()).join("\n");
}

/** Adds the button to `frame`, which `log` scrolls in; `ask` gets the selected text. */
export function quoteButton(frame: HTMLElement, log: HTMLElement, ask: (text: string) => void, signal: AbortSignal): void {
  const button = h("button", { class: "mlcw-ask-about", type: "button", hidden: true }, icon(ICONS.quote), "Ask about this");
  frame.append(button);

  const draw = (): void => {
    const range = selectedRange(log);
    if (!range) {
      show(button, button.matches(":focus"));
      return; // measuring would lay the page out once more, for each scroll of a growing reply
    }
    const box = range.getBoundingClientRect();
    const around = frame.getBoundingClientRect();
    const visible = box.bottom > around.top && box.top < around.bottom;
    show(button, visible || button.matches(":focus"));
    if (!visible) return;
    const { width, height } = button.getBoundingClientRect();
    const below = box.bottom - around.top + 6;
    const top = below + height < around.height ? below : Math.max(4, box.top - around.top - height - 6);
    const left = Math.max(4, Math.min(box.left - around.left, around.width - width - 4));
    button.style.top = `${String(top)}px`;
    button.style.left = `${String(left)}px`;
  };
  let frameId = 0;
  const later = (): void => {
    cancelAnimationFrame(frameId);
    frameId = requestAnimationFrame(draw);
  };
  document.addEventListener("selectionchange", later, { signal });
  log.addEventListener("scroll", later, { signal, passive: true });
  button.addEventListener("blur", later, { signal });
  button.addEventListener("pointerdown", (event) => { event.preventDefault(); }, { signal }); // the selection stays
  button.addEventListener("click", () => {
    const text = selectionOf(log)?.toString().trim() ?? "";
    if (text !== "") ask(text);
    selectionOf(log)?.removeAllRanges();
    show(button, false);
  }, { signal });
  signal.addEventListener("abort", () => { cancelAnimationFrame(frameId); });
}

/** The selection of the document, or of the shadow root in which the chat is. */
function selectionOf(node: Node): Selection | null {
  const root = node.getRootNode() as Partial<DocumentOrShadowRoot> & { getSelection?: () => Selection | null };
  return root.getSelection?.() ?? document.getSelection();
}

/** The selected range, if it is some text of one reply. */
function selectedRange(log: HTMLElement): Range | null {
  const selection = selectionOf(log);
  if (!selection || selection.rangeCount === 0 || selection.isCollapsed || selection.toString().trim() === "") return null;
  const range = selection.getRangeAt(0);
  const inReply = (node: Node): Element | null =>
    (node instanceof Element ? node : node.parentElement)?.closest(".mlcw-assistant .mlcw-body") ?? null;
  const body = inReply(range.startContainer);
  // A triple click ends at the beginning of what follows.
  const ends = inReply(range.endContainer) === body || range.endOffset === 0;
  return body !== null && log.contains(body) && ends ? range : null;
}
