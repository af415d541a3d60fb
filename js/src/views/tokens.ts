/** The tokens of a reply, shaded by how unlikely they were; the selected one's alternatives are below. */

import { h, setText } from "../dom.ts";
import { formatPercent } from "../format.ts";
import type { Likely, Token } from "../protocol.ts";

/** Below this probability a token is underlined, for those who do not see the shade. */
const UNLIKELY = 0.5;

/** A token as one sees it: white space and control characters are written out. */
export function visibleToken(text: string): string {
  if (text === "") return "(end)";
  // eslint-disable-next-line no-control-regex
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣").replace(/[\u0000-\u001f]/g, "␀");
}

/** 92 %, and small ones as 0.12 %. */
function percent(share: number): string {
  return share > 0 && share < 0.01 ? `${(share * 100).toPrecision(2)} %` : formatPercent(share);
}

function row({ text, probability }: Likely, taken: boolean): HTMLElement {
  const bar = h("span", { class: "mlcw-token-bar", "aria-hidden": "true" });
  bar.style.setProperty("--mlcw-share", String(probability));
  return h("li", taken ? { "aria-current": "true" } : {},
    h("code", { dir: "auto" }, visibleToken(text)), bar, h("span", {}, percent(probability)));
}

export class TokensView {
  readonly node: HTMLElement;
  readonly #text = h("div", {
    class: "mlcw-tokens-text", tabindex: "0", role: "group", dir: "auto",
    "aria-label": "Tokens, shaded by probability; the arrow keys select one",
  });
  readonly #title = h("div", { class: "mlcw-sr", role: "status" });
  readonly #list = h("ol", { class: "mlcw-token-list", "aria-label": "The most likely tokens at this position" });
  #tokens: readonly Token[] = [];
  #selected = -1;

  constructor(signal: AbortSignal) {
    this.node = h("div", { class: "mlcw-tokens" }, this.#text, h("div", { class: "mlcw-token-panel" }, this.#title, this.#list));
    const pick = (event: Event): void => {
      const at = event.target instanceof Element ? [...this.#text.children].indexOf(event.target) : -1;
      if (at >= 0) this.#select(at);
    };
    this.#text.addEventListener("pointerover", pick, { signal });
    this.#text.addEventListener("click", pick, { signal });
    this.#text.addEventListener("focus", () => { this.#select(Math.max(0, this.#selected)); }, { signal });
    this.#text.addEventListener("keydown", (event) => {
      const to = { ArrowRight: this.#selected + 1, ArrowLeft: this.#selected - 1, Home: 0, End: this.#tokens.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      this.#select(to);
    }, { signal });
  }

  update(tokens: readonly Token[]): void {
    this.#tokens = tokens;
    this.#text.replaceChildren(...tokens.map(({ text, probability }) => {
      const node = h("span", probability < UNLIKELY ? { class: "mlcw-token-unlikely" } : {}, text);
      node.style.setProperty("--mlcw-doubt", String(Math.round((1 - probability) * 100) / 100));
      return node;
    }));
    this.#selected = -1;
    const doubtful = tokens.reduce((least, token, at) => (token.probability < (tokens[least]?.probability ?? 1) ? at : least), 0);
    this.#select(doubtful);
  }

  #select(at: number): void {
    const token = this.#tokens[at];
    if (!token) return;
    this.#text.querySelector("[data-mlcw-selected]")?.removeAttribute("data-mlcw-selected");
    this.#selected = at;
    this.#text.children[at]?.setAttribute("data-mlcw-selected", "");
    setText(this.#title, `${visibleToken(token.text)}: ${percent(token.probability)}`);
    const known = token.top.some(({ text }) => text === token.text);
    const rows = known ? token.top : [token, ...token.top];
    this.#list.replaceChildren(...rows.map((likely) => row(likely, likely.text === token.text)));
  }
}
