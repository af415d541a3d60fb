/** Small buttons with an icon, an accessible name and a tooltip. */

import { h, icon, setAttribute } from "../dom.ts";

/** Milliseconds for which a button shows that it has been pressed. */
export const MOMENT = 2500;

export const ICONS = {
  copy: "M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z",
  check: "M3 8.5 6.5 12 13 4.5",
  again: "M13 8a5 5 0 1 1-1.6-3.7M13 2v3h-3",
  edit: "M2.8 13.2l.6-3 7.3-7.3 2.4 2.4-7.3 7.3z",
  remove: "M2.5 4.5h11M6 4V2.5h4V4M4 4.5l.6 9h6.8l.6-9",
  back: "M10 3.5 5.5 8l4.5 4.5",
  forward: "M6 3.5 10.5 8 6 12.5",
  settings: "M2 4.5h7M12.5 4.5H14M2 11.5h1.5M7 11.5h7M9 4.5a1.75 1.75 0 1 0 3.5 0 1.75 1.75 0 1 0-3.5 0M3.5 11.5a1.75 1.75 0 1 0 3.5 0 1.75 1.75 0 1 0-3.5 0",
  alert: "M8 4.5v4.2M8 11.4v.1",
  plus: "M8 3v10M3 8h10",
  save: "M8 2.5v7.5M4.8 7 8 10.2 11.2 7M2.5 13h11",
  expand: "M9.5 2.5h4v4M13.5 2.5 9 7M6.5 13.5h-4v-4M2.5 13.5 7 9",
  shrink: "M13 7H9V3M9 7l4.5-4.5M3 9h4v4M7 9l-4.5 4.5",
  attach: "M13 7.5 8.2 12.3a3 3 0 0 1-4.3-4.3l5-5a2 2 0 0 1 2.9 2.9L7 10.7a1 1 0 0 1-1.4-1.4l4.4-4.4",
  close: "M4.5 4.5l7 7M11.5 4.5l-7 7",
  text: "M3 4h10M3 8h10M3 12h6",
  quote: "M3 4.5h10v6.5H8L5 13.5V11H3z",
  bars: "M3 13V8M8 13V3M13 13v-3",
  search: "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 1 0 0-9M10.3 10.3l3.2 3.2",
  columns: "M2.5 3h11v10h-11zM8 3v10",
  up: "M8 12.5V3M3.8 7.3 8 3.1l4.2 4.2",
  down: "M8 3v9.5M3.8 8.5 8 12.7l4.2-4.2",
} as const;

export function iconButton(path: string, label: string, onClick: () => void, signal: AbortSignal): HTMLButtonElement {
  const button = h("button", { class: "mlcw-tool", type: "button", "aria-label": label, title: label }, icon(path));
  button.addEventListener("click", onClick, { signal });
  return button;
}

/** Replaces a button's icon and name. */
export function relabel(button: HTMLButtonElement, path: string, label: string): void {
  setAttribute(button, "aria-label", label);
  setAttribute(button, "title", label);
  button.replaceChildren(icon(path));
}
