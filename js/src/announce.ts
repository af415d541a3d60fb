/** Feeds a screen reader with whole sentences of a growing text, not with tokens. */

const SENTENCE_END = /[.!?…]["'”’)\]]*(?=\s|$)|[。！？]["'”’」』)\]]*|\n/gu;

/** The end of the last whole sentence in `text`, or 0. */
export function lastSentenceEnd(text: string): number {
  let end = 0;
  for (const match of text.matchAll(SENTENCE_END)) end = match.index + match[0].length;
  return end;
}

export class Announcer {
  readonly #region: HTMLElement;
  #reply = "";
  #said = 0;

  constructor(region: HTMLElement) {
    this.#region = region;
  }

  /** Says what is new in `text`, up to its last whole sentence, or all of it when it is complete. */
  follow(reply: string, text: string, complete: boolean): void {
    if (reply !== this.#reply) {
      this.#reply = reply;
      this.#said = 0;
    }
    const end = complete ? text.length : lastSentenceEnd(text);
    if (end <= this.#said) return;
    this.say(text.slice(this.#said, end));
    this.#said = end;
  }

  /** Marks a reply as heard, such as one that was there when the view opened. */
  skip(reply: string, text: string): void {
    this.#reply = reply;
    this.#said = text.length;
  }

  say(text: string): void {
    const clean = text.trim();
    if (clean) this.#region.textContent = clean;
  }
}
