/** A chat that takes the whole window, above everything else of the host's page. */

import { setAttribute } from "../dom.ts";
import { frameFollowsContent } from "../frame.ts";
import { iconButton, ICONS, relabel } from "./buttons.ts";

/**
 * The button that shows a chat in the whole window, and back. Null where the browser has no popovers:
 * the elements of hosts that surround the chat would cut off anything else. Null, too, in a frame
 * that is as high as its content, which a chat above everything else would take away.
 */
export function fullWindowButton(root: HTMLElement, signal: AbortSignal): HTMLButtonElement | null {
  if (typeof root.showPopover !== "function" || frameFollowsContent()) return null;
  const toggle = (): void => {
    const whole = !root.classList.contains("mlcw-whole");
    root.classList.toggle("mlcw-whole", whole);
    setAttribute(root, "popover", whole ? "manual" : null); // hides it if it is one no more
    if (whole) root.showPopover();
    relabel(button, whole ? ICONS.shrink : ICONS.expand, whole ? "Back into the page" : "Full window");
    setAttribute(button, "aria-pressed", String(whole));
    button.focus();
  };
  const button = iconButton(ICONS.expand, "Full window", toggle, signal);
  setAttribute(button, "aria-pressed", "false");
  return button;
}
