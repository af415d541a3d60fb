/** Updates the page to match a tree of values, keeping as many nodes as possible. */

import { makeElement, setAttributes } from "./allowed.ts";
import type { VElement, VNode } from "./tree.ts";

/** Replaces the children of `parent`, from the one at index `first` on, by `wanted`. */
export function patchChildren(parent: Element, wanted: readonly VNode[], first = 0): void {
  // Walks from sibling to sibling: an element's `childNodes`, once read, stays in memory.
  let old = first === 0 ? parent.firstChild : (parent.childNodes[first] ?? null);
  for (const node of wanted) {
    const next = old?.nextSibling ?? null;
    if (!old) parent.append(create(node));
    else if (!patch(old, node)) old.replaceWith(create(node));
    old = next;
  }
  while (old) {
    const next: ChildNode | null = old.nextSibling;
    old.remove();
    old = next;
  }
}

function patch(old: ChildNode, node: VNode): boolean {
  if (typeof node === "string") {
    if (!(old instanceof Text)) return false;
    // Appending keeps the reader's selection.
    if (node.startsWith(old.data)) {
      if (node.length > old.data.length) old.appendData(node.slice(old.data.length));
    } else old.data = node;
    return true;
  }
  if (!(old instanceof Element) || old.localName !== node.tag) return false;
  if ((old.getAttribute("class") ?? "") !== (node.attributes["class"] ?? "")) return false;
  setAttributes(old, node.attributes);
  patchChildren(old, node.children);
  return true;
}

function create(node: VNode): ChildNode {
  return typeof node === "string" ? document.createTextNode(node) : createElement(node);
}

function createElement(node: VElement): Element {
  const element = makeElement(node.tag);
  setAttributes(element, node.attributes);
  element.append(...node.children.map(create));
  return element;
}
