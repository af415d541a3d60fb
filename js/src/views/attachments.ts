/** The attachments of the message that is being written: chips above the box, and how they get there. */

import { attachmentOfPaste, checkTogether, readDragged, readFile, type DraggedText } from "../attachments.ts";
import { h, show } from "../dom.ts";
import { formatCount } from "../format.ts";
import { CELLS_MIME, readCells } from "../notebook-cells.ts";
import type { Attachment } from "../protocol.ts";
import { iconButton, ICONS } from "./buttons.ts";
import { takeCells } from "./cell-drops.ts";

export interface AttachmentActions {
  /** Shows why something was not attached; "" if all was. */
  readonly explain: (text: string) => void;
  /** Puts a text at the end of the message. */
  readonly append: (text: string) => void;
  readonly changed: () => void;
  /** The model, for messages. */
  readonly model: () => string;
  readonly focus: () => void;
}

export class Attachments {
  readonly node = h("ul", { class: "mlcw-chips", "aria-label": "Attachments", hidden: true });
  readonly button: HTMLButtonElement;
  readonly picker = h("input", { type: "file", multiple: true, hidden: true, "aria-hidden": "true", tabindex: "-1" });
  readonly #actions: AttachmentActions;
  readonly #signal: AbortSignal;
  #items: readonly Attachment[] = [];

  constructor(actions: AttachmentActions, signal: AbortSignal) {
    this.#actions = actions;
    this.#signal = signal;
    this.button = iconButton(ICONS.attach, "Attach text files", () => { this.picker.click(); }, signal);
    this.button.classList.add("mlcw-attach");
    this.picker.addEventListener("change", () => {
      const files = [...(this.picker.files ?? [])];
      this.picker.value = ""; // the same file may be chosen again
      void this.addFiles(files);
    }, { signal });
  }

  get items(): readonly Attachment[] {
    return this.#items;
  }

  /** Removes those that were sent. */
  sent(items: readonly Attachment[]): void {
    this.#set(this.#items.filter((item) => !items.includes(item)));
  }

  async addFiles(files: readonly File[]): Promise<void> {
    const reasons: string[] = [];
    for (const file of files) {
      try {
        this.#add(await readFile(file, this.#actions.model()));
      } catch (error) {
        reasons.push(error instanceof Error ? error.message : String(error));
      }
    }
    this.#actions.explain(reasons.join("\n"));
    this.#actions.focus();
  }

  /** Adds the text of a notebook's cells. */
  addCells(cells: unknown): void {
    this.#addText(readCells(cells), "These cells have no text.");
  }

  /** Adds a text, or says that its source has none; says how many images beside it were left out. */
  #addText({ attachment, images }: { readonly attachment: Attachment | null; readonly images: number }, none: string): void {
    const reasons: string[] = [];
    try {
      if (attachment) this.#add(attachment);
    } catch (error) {
      reasons.push(error instanceof Error ? error.message : String(error));
    }
    if (images > 0) reasons.push(`${this.#actions.model()} cannot see images: ${images === 1 ? "one was" : `${String(images)} were`} left out.`);
    else if (!attachment) reasons.push(none);
    this.#actions.explain(reasons.join("\n"));
    this.#actions.focus();
  }

  /** Takes files, cells, tables, tracebacks and long texts out of a paste; anything else is typed. */
  paste(event: ClipboardEvent): void {
    const data = event.clipboardData;
    if (!data) return;
    const cells = data.getData(CELLS_MIME);
    if (cells !== "") {
      event.preventDefault();
      this.addCells(cells);
      return;
    }
    const text = data.getData("text/plain");
    const files = [...data.files];
    // A spreadsheet gives its cells as text and, beside that, as an image.
    if (text === "" && files.length > 0) {
      event.preventDefault();
      void this.addFiles(files);
      return;
    }
    const attachment = attachmentOfPaste(text, data.getData("text/html"));
    if (!attachment) return;
    try {
      this.#add(attachment);
    } catch (error) {
      this.#actions.explain(error instanceof Error ? error.message : String(error));
    }
    event.preventDefault();
  }

  /** Takes files, cells, and outputs of cells that are dropped on `target`. */
  dropOn(target: HTMLElement): void {
    const signal = this.#signal;
    takeCells(target, {
      enabled: () => !this.button.disabled,
      over: (inside) => target.classList.toggle("mlcw-dropping", inside),
      drop: (cells) => { this.addCells(cells); },
    }, signal);
    let within = false; // a drag from one place in the chat to another is the browser's
    window.addEventListener("dragstart", (event) => { within = event.composedPath().includes(target); }, { capture: true, signal });
    window.addEventListener("dragend", () => { within = false; }, { capture: true, signal });
    const has = ({ dataTransfer }: DragEvent, ...types: string[]): boolean =>
      dataTransfer?.types.some((type) => types.includes(type)) === true;
    const hasFiles = (event: DragEvent): boolean => has(event, "Files", CELLS_MIME);
    const hasText = (event: DragEvent): boolean => !within && has(event, "text/html", "text/plain");
    target.addEventListener("dragover", (event) => {
      if (!hasFiles(event) && !hasText(event)) return;
      target.classList.toggle("mlcw-dropping", !this.button.disabled);
      if (!hasFiles(event) && isBox(event.target)) return; // the browser shows where a text would be typed
      event.preventDefault();
      event.stopPropagation();
    }, { signal });
    for (const type of ["dragleave", "drop"] as const) {
      target.addEventListener(type, (event) => {
        const inside = type === "dragleave" && event.relatedTarget instanceof Node && target.contains(event.relatedTarget);
        if (!inside) target.classList.remove("mlcw-dropping");
      }, { signal });
    }
    target.addEventListener("drop", (event) => {
      const data = event.dataTransfer;
      if (!data || (!hasFiles(event) && !hasText(event))) return;
      const dragged = draggedText(data);
      const files = hasFiles(event);
      if (!files && isBox(event.target) && isTyped(dragged)) return;
      event.preventDefault();
      event.stopPropagation(); // JupyterLab would upload it
      if (this.button.disabled) return;
      const cells = data.getData(CELLS_MIME);
      if (cells !== "") this.addCells(cells);
      else if (files) void this.addFiles([...data.files]);
      else this.#addText(readDragged(dragged), "What was dropped has no text.");
    }, { signal });
  }

  #add(attachment: Attachment): void {
    const items = [...this.#items, attachment];
    checkTogether(items);
    this.#set(items);
  }

  #set(items: readonly Attachment[]): void {
    this.#items = items;
    this.node.replaceChildren(...items.map((item) => this.#chip(item)));
    show(this.node, items.length > 0);
    this.#actions.changed();
  }

  #chip(item: Attachment): HTMLElement {
    const remove = iconButton(ICONS.close, `Remove ${item.name}`, () => {
      this.sent([item]);
      this.#actions.focus();
    }, this.#signal);
    const insert = iconButton(ICONS.text, `Put the text of ${item.name} into the message`, () => {
      this.sent([item]);
      this.#actions.append(codeBlock(item.text));
    }, this.#signal);
    return h("li", { class: "mlcw-chip", title: item.text.slice(0, 300) },
      h("span", { class: "mlcw-chip-name", dir: "auto" }, item.name),
      h("span", { class: "mlcw-chip-facts" }, `${formatCount(item.text.length)} characters`),
      insert, remove);
  }
}

/** A text as a code block, whose braces are not variables of the notebook. */
function codeBlock(text: string): string {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([run]) => run.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}\n${text.trimEnd()}\n${fence}`;
}

const isBox = (target: EventTarget | null): boolean => target instanceof HTMLTextAreaElement;

const draggedText = (data: DataTransfer): DraggedText => ({
  text: data.getData("text/plain"),
  html: data.getData("text/html"),
  address: data.getData("text/uri-list"),
});

/** Whether a text that is dropped on a box is typed into it, as a paste would be. */
const isTyped = (dragged: DraggedText): boolean =>
  attachmentOfPaste(dragged.text, dragged.html) === null && readDragged(dragged).attachment !== null;
