/**
 * Renders transcripts only when they become visible.
 *
 * The cell of a chat keeps the transcript as Markdown in a second output
 * (widget/transcript_output.py), which is hidden as long as the chat itself is shown
 * (styles/transcript.css). The host would render all of it again after each reply, MathJax included,
 * which takes more time and memory than the chat. Where JupyterLab allows it, we delay that until
 * the transcript is visible, for example because the chat's kernel is gone.
 */

import type { Model } from "./host.ts";

/** The MIME type under which an output holds the conversation, beside its Markdown (widget/transcript.py). */
const CHAT = "application/vnd.mlc-widget.chat+json";
const MARKDOWN = "text/markdown";
/** Renderers of a lower rank are preferred; Markdown's rank is higher. */
const RANK = 0;

interface Renderer {
  readonly node: HTMLElement;
  renderModel(model: unknown): Promise<void>;
  readonly disposed?: { connect(slot: () => void): unknown };
}

interface Factory {
  createRenderer(options: Readonly<Record<string, unknown>>): Renderer;
}

interface Registry {
  readonly mimeTypes: readonly string[];
  getFactory(mimeType: string): Factory | undefined;
  addFactory(factory: Factory & { safe: boolean; mimeTypes: readonly string[] }, rank: number): void;
}

function registryOf(model: Model): Registry | null {
  const manager = model.widget_manager as { readonly _rendermime?: Partial<Registry> } | null | undefined;
  const registry = manager?._rendermime;
  const whole = typeof registry?.addFactory === "function" && typeof registry.getFactory === "function"
    && Array.isArray(registry.mimeTypes);
  return whole ? (registry as Registry) : null;
}

/** Has the notebook render transcripts once they are visible. It uses a private API, and does nothing without it. */
export function drawTranscriptsLazily(model: Model): void {
  try {
    const registry = registryOf(model);
    const markdown = registry?.getFactory(MARKDOWN);
    if (!registry || !markdown || registry.mimeTypes.includes(CHAT)) return;
    const createRenderer = (options: Readonly<Record<string, unknown>>): Renderer =>
      lazily(markdown.createRenderer({ ...options, mimeType: MARKDOWN }));
    registry.addFactory({ safe: true, mimeTypes: [CHAT], createRenderer }, RANK);
  } catch {
    // As if the host had no such API.
  }
}

function lazily(renderer: Renderer): Renderer {
  const draw = renderer.renderModel.bind(renderer);
  let waiting: { readonly model: unknown } | null = null;
  let seen = false;
  const settle = (): void => {
    if (!seen || !waiting) return;
    const { model } = waiting;
    waiting = null;
    void draw(model);
  };
  const observer = new IntersectionObserver((entries) => {
    seen = entries.at(-1)?.isIntersecting === true;
    settle();
  });
  renderer.renderModel = (model): Promise<void> => {
    waiting = { model };
    settle();
    return Promise.resolve();
  };
  // An element without a height is never visible.
  renderer.node.style.minHeight = "1em";
  observer.observe(renderer.node);
  renderer.disposed?.connect(() => {
    observer.disconnect();
  });
  return renderer;
}
