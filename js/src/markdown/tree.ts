/** The tree of plain values that Markdown is parsed into. */

export interface VElement {
  /** A tag that `allowed.ts` lists; any other becomes a `span`. */
  readonly tag: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: readonly VNode[];
}
export type VNode = VElement | string;
