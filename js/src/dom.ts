/** The only way nodes are made here: elements, checked attributes and text; never HTML from a string. */

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

/** A 16 × 16 icon that follows the text's colour and says nothing to screen readers. */
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

/** Sets text only where it differs, so that selections and screen readers are left in peace. */
export function setText(node: HTMLElement, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets or removes an attribute, only where it differs. */
export function setAttribute(node: Element, name: string, value: string | null): void {
  if (node.getAttribute(name) === value) return;
  if (value === null) node.removeAttribute(name);
  else node.setAttribute(name, value);
}

/** Shows or hides an element. */
export function show(node: HTMLElement, visible: boolean): void {
  if (node.hidden === visible) node.hidden = !visible;
}

/** Jupyter's mark for "keys pressed here are no shortcuts of the notebook's". */
export const OWN_KEYS = "data-lm-suppress-shortcuts";

/**
 * Keeps keys pressed inside from being the notebook's shortcuts. Notebook 7 looks at the focused
 * element first and only then at its ancestors' marks, so whatever gets the focus is marked.
 */
export function keepKeys(root: HTMLElement, signal: AbortSignal): void {
  root.setAttribute(OWN_KEYS, "true");
  root.addEventListener("focusin", (event) => {
    if (event.target instanceof Element) event.target.setAttribute(OWN_KEYS, "true");
  }, { signal });
}
