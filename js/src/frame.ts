/** Hosts that show outputs in a frame which is as high as what it shows. */

/**
 * Whether the frame's height says nothing about what the reader sees of it: in Colab each output has
 * a frame of its own, in VS Code one frame holds all outputs of a notebook. "The whole window" would
 * be such a frame, too.
 */
export function frameFollowsContent(): boolean {
  const page = globalThis as { readonly google?: object | null; readonly vscIPyWidgets?: unknown };
  return page.vscIPyWidgets !== undefined || (page.google != null && "colab" in page.google);
}
