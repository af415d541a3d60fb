/**
 * The elements and attributes that may exist inside a message, checked as they are made.
 *
 * Whatever earlier steps made of the model's text, no other element is ever created, and no `id`,
 * `name`, `style`, `href`, `src`, `data-*` or event attribute is ever set.
 */

import { OWN_KEYS } from "../dom.ts";

const MATHML = "http://www.w3.org/1998/Math/MathML";

const HTML_TAGS: ReadonlySet<string> = new Set(
  ("a b blockquote br button code del div em h3 h4 h5 h6 hr li ol p pre span strong table tbody td th thead tr ul")
    .split(" "),
);
const MATH_TAGS: ReadonlySet<string> = new Set(
  ("math mrow mi mn mo ms mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover " +
    "mmultiscripts mprescripts none mtable mtr mtd mstyle mpadded mphantom menclose").split(" "),
);
const HTML_ATTRIBUTES: Readonly<Record<string, RegExp>> = {
  class: /^mlcw-[\w-]+( mlcw-[\w-]+)*$/,
  dir: /^(auto|ltr|rtl)$/,
  title: /^(https?:|mailto:|(Copy code|Run in a new cell below|Insert as a new cell below|Replace the cell above)$)/,
  role: /^(link|group)$/,
  tabindex: /^0$/,
  start: /^\d{1,9}$/,
  type: /^button$/,
  "aria-label": /^(Table|Code|Formula)$/,
};
const MATH_VALUE = /^[\w .%+#-]{1,64}$/;
const MATH_ATTRIBUTES: ReadonlySet<string> = new Set(
  ("accent accentunder columnalign columnspan depth dir display displaystyle fence form height largeop " +
    "linethickness lspace mathvariant maxsize minsize movablelimits notation rowspan rspace scriptlevel " +
    "separator stretchy symmetric voffset width").split(" "),
);

export function isAllowedTag(tag: string): boolean {
  return HTML_TAGS.has(tag) || MATH_TAGS.has(tag);
}

export function isAllowedAttribute(tag: string, name: string, value: string): boolean {
  if (MATH_TAGS.has(tag) && MATH_ATTRIBUTES.has(name)) return MATH_VALUE.test(value);
  return Object.hasOwn(HTML_ATTRIBUTES, name) && (HTML_ATTRIBUTES[name]?.test(value) ?? false);
}

/** Makes an element; a `span` if the tag is not allowed. */
export function makeElement(tag: string): Element {
  if (MATH_TAGS.has(tag)) return document.createElementNS(MATHML, tag);
  return document.createElement(HTML_TAGS.has(tag) ? tag : "span");
}

/** Replaces an element's attributes by those of `wanted` that are allowed. */
export function setAttributes(element: Element, wanted: Readonly<Record<string, string>>): void {
  const tag = element.localName;
  for (const name of element.getAttributeNames()) {
    if (!(name in wanted) && name !== OWN_KEYS) element.removeAttribute(name);
  }
  for (const [name, value] of Object.entries(wanted)) {
    if (!isAllowedAttribute(tag, name, value)) element.removeAttribute(name);
    else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  }
}
