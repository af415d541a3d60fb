/** Reads a growing text to screen readers in whole sentences, not token by token. */

const SENTENCE_END = /[.!?…]["'”’)\]]*(?=\s|$)|[。！？]["'”’」』)\]]*|\n/gu;

/** The index after the last complete sentence in `text` from `start` on; `start` if there is none. */
export function lastSentenceEnd(text: string, start = 0): number {
  let end = start;
  for (const match of text.slice(start).matchAll(SENTENCE_END)) end = start + match.index + match[0].length;
  return end;
}

export class Announcer {
  readonly #region: HTMLElement;
  #reply = "";
  #said = 0;

  constructor(region: HTMLElement) {
    this.#region = region;
  }

  /** Announces the new sentences of `text`; all of its new text once it is complete. */
  follow(reply: string, text: string, complete: boolean): void {
    if (reply !== this.#reply) {
      this.#reply = reply;
      this.#said = 0;
    }
    const end = complete ? text.length : lastSentenceEnd(text, this.#said);
    if (end <= this.#said) return;
    this.say(text.slice(this.#said, end));
    this.#said = end;
  }

  /** Marks a reply as announced, for example one that existed when the view opened. */
  skip(reply: string, text: string): void {
    this.#reply = reply;
    this.#said = text.length;
  }

  say(text: string): void {
    const clean = text.trim();
    if (clean) this.#region.textContent = clean;
  }
}
