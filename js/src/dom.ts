/** Makes the page's nodes from elements, attributes and text, and never from a string of HTML. */

type Attributes = Readonly<Record<string, string | boolean>>;
type Child = Node | string;

const SVG = "http://www.w3.org/2000/svg";

/** Makes an element. `true` sets an empty attribute, `false` leaves it out. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** A 16 × 16 icon in the colour of the text, hidden from screen readers. */
export function icon(path: string, kind: "stroke" | "fill" = "stroke"): SVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("focusable", "false");
  svg.setAttribute("class", `mlcw-icon mlcw-icon-${kind}`);
  const shape = document.createElementNS(SVG, "path");
  shape.setAttribute("d", path);
  svg.append(shape);
  return svg;
}

/** Sets text only if it differs, so as not to disturb selections and screen readers. */
export function setText(node: HTMLElement, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets or removes an attribute, only if its value differs. */
export function setAttribute(node: Element, name: string, value: string | null): void {
  if (node.getAttribute(name) === value) return;
  if (value === null) node.removeAttribute(name);
  else node.setAttribute(name, value);
}

/** Shows or hides an element. */
export function show(node: HTMLElement, visible: boolean): void {
  if (node.hidden === visible) node.hidden = !visible;
}

/** The attribute by which Jupyter knows that keys pressed in an element are not its shortcuts. */
export const OWN_KEYS = "data-lm-suppress-shortcuts";

/**
 * Keeps the notebook from taking keys pressed inside `root` as its shortcuts. Notebook 7 looks for
 * the attribute on the focused element before its ancestors, so each element that gets the focus
 * is given it.
 */
export function keepKeys(root: HTMLElement, signal: AbortSignal): void {
  root.setAttribute(OWN_KEYS, "true");
  root.addEventListener("focusin", (event) => {
    if (event.target instanceof Element) event.target.setAttribute(OWN_KEYS, "true");
  }, { signal });
}
