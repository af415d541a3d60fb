/**
 * The anywidget module of every widget. It finds the bundle, which the kernel sends once, and
 * delegates to it.
 *
 * A widget's module is part of its state and so is stored in the notebook with each widget; hence it
 * is small. The bundle is a model of its own (widget/bundle.py), to which the trait `_bundle` refers.
 */

interface Model {
  get(name: string): unknown;
  readonly widget_manager?: unknown;
}

interface Props {
  readonly model: Model;
  readonly signal?: AbortSignal;
}

type Cleanup = (() => void) | undefined;

interface Widget {
  initialize(props: Props): Cleanup;
  render(props: Props & { readonly el: HTMLElement }): Cleanup;
}

interface Manager {
  get_model(id: string): Promise<Model>;
}

/** Milliseconds between two attempts to find the bundle, which may be restored after the widget. */
const PAUSE = 50;
/** Milliseconds after which the bundle counts as missing. */
const PATIENCE = 20_000;
/** Milliseconds to wait in `initialize`: anywidget gives up on a model after two seconds. */
const INITIALIZE_PATIENCE = 1_000;
const PREFIX = "IPY_MODEL_";
const MISSING = "This widget needs its kernel: run its cell again.";
/** Where the page keeps the imported modules, by widget manager and bundle id. */
const LOADED = Symbol.for("mlc-widget.loaded");

type Loaded = WeakMap<object, Map<string, Promise<Widget>>>;

const pause = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function findBundle(manager: Manager, id: string): Promise<Model> {
  const end = Date.now() + PATIENCE;
  for (;;) {
    try {
      return await manager.get_model(id);
    } catch (error) {
      if (Date.now() > end) throw error;
    }
    await pause(PAUSE);
  }
}

/** Adds the style sheet to the page, or to a shadow root, as which marimo shows a widget. */
function addStyle(root: Document | ShadowRoot, id: string, css: string): void {
  const styleId = `mlc-widget-${id}`;
  if (root.getElementById(styleId)) return;
  const style = document.createElement("style");
  style.id = styleId;
  style.textContent = css;
  (root instanceof Document ? root.head : root).append(style);
}

async function styleShadow(el: HTMLElement, manager: Manager, id: string, signal?: AbortSignal): Promise<void> {
  // A view may be drawn before it is put into the page.
  const end = Date.now() + PATIENCE;
  while (!el.isConnected && signal?.aborted !== true && Date.now() < end) await pause(PAUSE);
  const root = el.getRootNode();
  if (root instanceof ShadowRoot) addStyle(root, id, String((await manager.get_model(id)).get("css")));
}

async function importBundle(manager: Manager, id: string): Promise<Widget> {
  const bundle = await findBundle(manager, id);
  addStyle(document, id, String(bundle.get("css")));
  const url = URL.createObjectURL(new Blob([String(bundle.get("js"))], { type: "text/javascript" }));
  try {
    const module = (await import(/* @vite-ignore */ url)) as { readonly default: Widget };
    return module.default;
  } finally {
    URL.revokeObjectURL(url);
  }
}

const managerOf = (model: Model): Manager => model.widget_manager as Manager;
const bundleOf = (model: Model): string => String(model.get("_bundle")).replace(PREFIX, "");

function load(model: Model): Promise<Widget> {
  const manager = managerOf(model);
  const id = bundleOf(model);
  const shared = globalThis as unknown as Record<symbol, Loaded | undefined>;
  const all = (shared[LOADED] ??= new WeakMap());
  const known = all.get(manager) ?? new Map<string, Promise<Widget>>();
  all.set(manager, known);
  let loading = known.get(id);
  if (!loading) {
    loading = importBundle(manager, id);
    known.set(id, loading);
    loading.catch(() => known.delete(id)); // the next widget tries again
  }
  return loading;
}

async function begin({ model, signal }: Props): Promise<Cleanup> {
  const widget = await load(model);
  if (signal?.aborted) return undefined;
  return widget.initialize({ model, ...(signal && { signal }) });
}

async function initialize(props: Props): Promise<Cleanup> {
  let cleanup: Cleanup;
  let ended = false;
  const begun = begin(props).then((found) => {
    cleanup = found;
    if (ended) found?.();
  }, () => undefined); // `render` shows the error
  await Promise.race([begun, pause(INITIALIZE_PATIENCE)]);
  return () => {
    ended = true;
    cleanup?.();
  };
}

async function render(props: Props & { readonly el: HTMLElement }): Promise<Cleanup> {
  try {
    const { model, el, signal } = props;
    const widget = await load(model);
    void styleShadow(el, managerOf(model), bundleOf(model), signal).catch(() => undefined);
    return signal?.aborted ? undefined : widget.render(props);
  } catch {
    props.el.textContent = MISSING;
    return undefined;
  }
}

export default { initialize, render };
