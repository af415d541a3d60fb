/**
 * Spares the page a transcript that nobody sees.
 *
 * Below a chat, its cell keeps the transcript as Markdown (widget/transcript_output.py), hidden where the chat
 * itself is drawn (styles/transcript.css). The host would draw all of it anew after each reply,
 * MathJax included, which costs more time and memory than the chat. Where JupyterLab lets us, its
 * Markdown is drawn only once it comes into sight, such as when the chat has gone with its kernel.
 */

import type { Model } from "./host.ts";

/** The conversation beside its Markdown (widget/transcript.py). */
const CHAT = "application/vnd.mlc-widget.chat+json";
const MARKDOWN = "text/markdown";
/** Before Markdown's own. */
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

/** Has the notebook draw transcripts when they are seen. Private API: where it is missing, nothing changes. */
export function drawTranscriptsLazily(model: Model): void {
  try {
    const registry = registryOf(model);
    const markdown = registry?.getFactory(MARKDOWN);
    if (!registry || !markdown || registry.mimeTypes.includes(CHAT)) return;
    const createRenderer = (options: Readonly<Record<string, unknown>>): Renderer =>
      lazily(markdown.createRenderer({ ...options, mimeType: MARKDOWN }));
    registry.addFactory({ safe: true, mimeTypes: [CHAT], createRenderer }, RANK);
  } catch {
    // As if there were none.
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
  // Without a height it would never come into sight.
  renderer.node.style.minHeight = "1em";
  observer.observe(renderer.node);
  renderer.disposed?.connect(() => {
    observer.disconnect();
  });
  return renderer;
}
