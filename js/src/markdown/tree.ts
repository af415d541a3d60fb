/** What Markdown becomes before it is drawn: a tree of plain values. */

export interface VElement {
  /** Of those in `allowed.ts`; anything else becomes a `span`. */
  readonly tag: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: readonly VNode[];
}
export type VNode = VElement | string;
