"""Pages that reproduce what a host gives a widget, with a kernel that the test controls.

VS Code and Colab cannot be installed for a test; marimo can, but only `make hosts` does so, as it
takes long. What their pages do is taken from their sources:

- VS Code's notebook has one frame for all outputs: its `<body>` has the theme's class and
  `data-vscode-theme-kind`, `<html>` the theme's `--vscode-*` (microsoft/vscode,
  contrib/webview/browser/pre/index.html; colours: the themes "Dark Modern", "Light Modern",
  "Dark High Contrast" and "Light High Contrast").
- Its widgets stand in a `.cell-output-ipywidget-background`, which is white; JupyterLab's names
  have the light theme of `@jupyter-widgets/controls/css/labvariables.css`
  (microsoft/vscode-jupyter, src/webviews/webview-side/ipywidgets: renderer/styles.css and
  kernel/manager.ts).
- Its widget manager, `window.vscIPyWidgets.WidgetManager`, is JupyterLab's with a kernel, and with
  a context whose notebook is an empty dummy without a path (microsoft/vscode-jupyter-ipywidgets,
  src/manager.ts, src/documentContext.ts and src/index.ts; npm: @vscode/jupyter-ipywidgets8).
- Colab has one frame for each output, of another origin than the notebook and as high as its
  content. `<html theme="dark">` has the `--colab-*`; labvariables.css is there, too, and a few of
  its names have Colab's colours (googlecolab/colab-cdn-widget-manager, src/index.css).
- Each frame has a widget manager of its own, without kernel and context. It asks the notebook's
  page for a model's state and its comm, whose messages are copied on their way; what the comm gets
  is an async iterable (colab-cdn-widget-manager, src/manager.ts and src/api.ts).
- marimo shows a widget in the shadow root of an element, `marimo-anywidget`; the page has the theme
  (marimo-team/marimo, frontend/src/plugins/core/registerReactComponent.tsx and
  frontend/src/css/globals.css).

In VS Code and Colab, anywidget imports a widget's module from a blob.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any

from playwright.sync_api import Browser, Frame, Locator, Page, Route, ViewportSize

from mlc_widget.widget.bundle import STATIC, loader

from .page import ENGINE, LentPage

ORIGIN = "http://notebook.test"

# What the hosts' pages have of labvariables.css: JupyterLab's light theme.
LAB_VARIABLES = """
:root {
  --jp-border-color2: #e0e0e0; --jp-ui-font-size1: 13px;
  --jp-ui-font-family: 'Helvetica Neue', Helvetica, Arial, sans-serif;
  --jp-ui-font-color0: rgba(0, 0, 0, 1); --jp-ui-font-color1: rgba(0, 0, 0, 0.8);
  --jp-ui-font-color2: rgba(0, 0, 0, 0.5); --jp-ui-inverse-font-color0: rgba(255, 255, 255, 1);
  --jp-content-font-size: 13px; --jp-code-font-family: monospace;
  --jp-layout-color0: white; --jp-layout-color1: white;
  --jp-layout-color2: #eee; --jp-layout-color3: #bdbdbd;
  --jp-brand-color1: #2196f3; --jp-warn-color1: #ff9800;
  --jp-error-color1: #f44336; --jp-success-color1: #4caf50;
}
"""
# Some versions and extensions give all surfaces one colour, and all text the editor's font.
BRIDGE = """
:root {
  --jp-layout-color0: var(--vscode-editor-background);
  --jp-layout-color1: var(--vscode-editor-background);
  --jp-layout-color2: var(--vscode-editor-background);
  --jp-layout-color3: var(--vscode-editor-background);
  --jp-ui-font-color0: var(--vscode-editor-foreground);
  --jp-ui-font-family: var(--vscode-editor-font-family);
  --jp-content-font-family: var(--vscode-editor-font-family);
}
"""


def _vscode_theme(
    foreground: str, background: str, muted: str, link: str, **more: str
) -> dict[str, str]:
    names = {
        "foreground": foreground,
        "editor-foreground": foreground,
        "editor-background": background,
        "descriptionForeground": muted,
        "textLink-foreground": link,
        "font-family": "sans-serif",
        "font-size": "13px",
        "editor-font-family": "monospace",
        **more,
    }
    return {f"--vscode-{name}": value for name, value in names.items()}


VSCODE_THEMES = {
    "vscode-dark": _vscode_theme("#cccccc", "#1f1f1f", "#9d9d9d", "#4daafc", focusBorder="#0078d4"),
    "vscode-light": _vscode_theme(
        "#3b3b3b", "#ffffff", "#3b3b3b", "#005fb8", focusBorder="#005fb8"
    ),
    "vscode-high-contrast": _vscode_theme(
        "#ffffff", "#000000", "rgba(255, 255, 255, 0.7)", "#21a6ff", contrastBorder="#6fc3df"
    ),
    "vscode-high-contrast-light": _vscode_theme(
        "#292929", "#ffffff", "rgba(41, 41, 41, 0.7)", "#0f4a85", contrastBorder="#0f4a85"
    ),
}
COLAB_THEMES = ("light", "dark", "adaptive")
_COLAB_DARK = """
  --colab-primary-surface-color: #383838; --colab-secondary-surface-color: #454545;
  --colab-primary-text-color: #d5d5d5; --colab-border-color: #616161;
  --colab-anchor-color: #64b5f6;
"""
COLAB_VARIABLES = f"""
html {{
  --colab-primary-surface-color: #fff; --colab-secondary-surface-color: #f7f7f7;
  --colab-primary-text-color: #212121; --colab-border-color: #dadada;
  --colab-anchor-color: #00e;
}}
html[theme="dark"] {{ {_COLAB_DARK} }}
@media (prefers-color-scheme: dark) {{ html[theme="adaptive"] {{ {_COLAB_DARK} }} }}
:root {{
  --jp-layout-color2: var(--colab-secondary-surface-color);
  --jp-ui-font-color1: var(--colab-primary-text-color);
}}
"""

# The model of ipywidgets: traits, events, and a comm for custom messages.
_MODEL = """
class Model {
  constructor(id, traits, comm, manager) {
    Object.assign(this, {id, traits, comm, widget_manager: manager, comm_live: true, heard: {}});
  }
  get(name) { return this.traits[name]; }
  send(content) { this.comm.send({method: "custom", content}); }
  on(event, callback) { (this.heard[event] ??= new Set()).add(callback); }
  off(event, callback) { this.heard[event]?.delete(callback); }
  emit(event, ...args) { for (const callback of this.heard[event] ?? []) callback(...args); }
  receive(data) {
    if (data.method === "custom") this.emit("msg:custom", data.content);
    else {
      Object.assign(this.traits, data.state);
      for (const name of Object.keys(data.state)) this.emit(`change:${name}`);
    }
  }
}
async function draw(model, el, loader) {
  const url = URL.createObjectURL(new Blob([loader], {type: "text/javascript"}));
  const widget = (await import(url)).default;
  URL.revokeObjectURL(url);
  await widget.initialize({model});
  await widget.render({model, el});
}
const frames = () => new Promise((done) =>
  requestAnimationFrame(() => requestAnimationFrame(done)));
"""
# The kernel: models by id. It takes every intent, and notes it.
_KERNEL = """
const kernel = {states: {}, comms: {}, intents: []};
window.kernel = kernel;
window.comm = (id, data) => { for (const send of kernel.comms[id] ?? []) send(data); };
function take(id, data) {
  kernel.intents.push(data.content.intent);
  window.comm(id, {method: "custom", content: {type: "ack", intent: data.content.id, error: null}});
}
"""

_VSCODE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>VS Code</title><style>
body {{
  background-color: transparent; color: var(--vscode-editor-foreground);
  font-family: var(--vscode-font-family); font-size: var(--vscode-font-size);
  margin: 0; padding: 0 20px;
}}
html {{ background: var(--vscode-editor-background); }}
.cell-output-ipywidget-background {{ background: white !important; }}
{variables}</style><style id="bridge"></style></head><body><main id="container"></main><script>
{model}{kernel}
window.vscIPyWidgets = {{WidgetManager: class {{}}}};
const models = {{}};
const signal = () => ({{connect() {{}}, disconnect() {{}}}});
const connection = {{id: "k", status: "idle", clientId: "c", username: "u",
  sendControlMessage: ({{content}}) => take(content.comm_id, content.data)}};
const session = {{session: {{kernel: connection}},
  kernelChanged: signal(), statusChanged: signal()}};
const manager = {{
  kernel: connection,
  context: {{path: undefined, sessionContext: session,
    model: {{cells: [], sharedModel: {{cells: [], insertCell: () => ({{}})}}}}}},
  get_model: (id) => id in models ? Promise.resolve(models[id]) : Promise.reject(new Error(id)),
}};
window.show = async (loader, id) => {{
  for (const [name, traits] of Object.entries(kernel.states)) {{
    models[name] ??= new Model(name, traits, {{send: (data) => take(name, data)}}, manager);
    kernel.comms[name] = [(data) => models[name].receive(data)];
  }}
  const output = document.createElement("div");
  output.className = "cell-output-ipywidget-background";
  document.getElementById("container").append(output);
  await draw(models[id], output, loader);
  await frames();
}};
</script></body></html>"""

_COLAB = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Colab</title><style>
body {{ margin: 0; }}
iframe {{ border: 0; display: block; height: 0; margin-bottom: 8px; width: 100%; }}
</style></head><body><script>
{kernel}
window.addEventListener("message", ({{data, source}}) => {{
  const shown = [...document.querySelectorAll("iframe")];
  const frame = shown.find((one) => one.contentWindow === source);
  if (data.height !== undefined) frame.style.height = `${{data.height}}px`;
  else if (data.ask !== undefined) {{
    const send = (message) => source.postMessage({{comm: data.ask, message}}, "*");
    (kernel.comms[data.ask] ??= []).push(send);
    source.postMessage({{answer: data.ask, state: kernel.states[data.ask]}}, "*");
  }} else if (data.drawn) frame.dataset.drawn = "";
  else take(data.comm, data.message);
}});
window.show = async (loader, id, source) => {{
  const frame = document.createElement("iframe");
  frame.setAttribute("sandbox", "allow-scripts allow-forms allow-popups");
  frame.srcdoc = source;
  document.body.append(frame);
  await new Promise((done) => frame.addEventListener("load", done));
  frame.contentWindow.postMessage({{loader, id}}, "*");
  while (frame.dataset.drawn === undefined) await new Promise(requestAnimationFrame);
}};
</script></body></html>"""

_COLAB_OUTPUT = """<!doctype html><html lang="en"><head>
<meta charset="utf-8"><style>{variables}
html {{ background: var(--colab-primary-surface-color); }}
body {{ display: flow-root; margin: 0; }}
</style></head><body><div id="output-area"></div><script>
{model}
window.google = {{colab: {{}}}};
const asked = {{}}, comms = {{}};
const post = (data) => parent.postMessage(JSON.parse(JSON.stringify(data)), "*");
new ResizeObserver(() => post({{height: document.body.scrollHeight}})).observe(document.body);
async function* messagesOf(id) {{
  const queue = [];
  let wake = () => undefined;
  comms[id] = (message) => {{ queue.push(message); wake(); }};
  for (;;) {{
    while (queue.length) yield queue.shift();
    await new Promise((done) => {{ wake = done; }});
  }}
}}
const manager = {{
  get_model: (id) => asked[id]?.model ?? (asked[id] = {{}}, asked[id].model = (async () => {{
    const messages = messagesOf(id);
    const next = messages.next();
    post({{ask: id}});
    const state = await new Promise((done) => {{ asked[id].done = done; }});
    if (!state) throw new Error("not found");
    const comm = {{send: (message) => post({{comm: id, message}})}};
    const model = new Model(id, state, comm, manager);
    (async () => {{
      model.receive((await next).value);
      for await (const message of messages) model.receive(message);
    }})();
    return model;
  }})()),
}};
addEventListener("message", async ({{data}}) => {{
  if (data.answer) asked[data.answer].done(data.state);
  else if (data.comm) comms[data.comm](data.message);
  else {{
    const model = await manager.get_model(data.id);
    await draw(model, document.getElementById("output-area"), data.loader);
    await frames();
    post({{drawn: true}});
  }}
}});
</script></body></html>"""

# Of marimo's theme, what the chat uses.
_MARIMO = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>marimo</title><style>
:root {{
  color-scheme: light;
  --text-font: "PT Sans", sans-serif; --monospace-font: "Fira Mono", monospace;
  --background: light-dark(hsl(0deg 0% 100%), hsl(150deg 7.7% 10.2%));
  --foreground: light-dark(hsl(222.2deg 47.4% 11.2%), hsl(155deg 7% 93%));
  --muted-foreground: light-dark(hsl(215.4deg 16.3% 46.9%), hsl(155deg 5% 68.3%));
  --border: light-dark(hsl(214.3deg 31.8% 91.4%), hsl(153deg 3.7% 24.2%));
  --link: light-dark(hsl(211deg 90% 42%), hsl(211deg 90% 62%));
}}
:root:has(body.dark), .dark {{ color-scheme: dark; }}
body {{ background: var(--background); margin: 0; }}
</style></head><body><script>
{model}{kernel}
const models = {{}};
const manager = {{get_model: async (id) => models[id]}};
window.show = async (loader, id) => {{
  for (const [name, traits] of Object.entries(kernel.states)) {{
    models[name] ??= new Model(name, traits, {{send: (data) => take(name, data)}}, manager);
    kernel.comms[name] = [(data) => models[name].receive(data)];
  }}
  const element = document.createElement("marimo-anywidget");
  const output = document.createElement("div");
  element.attachShadow({{mode: "open"}}).append(output);
  document.body.append(element);
  await draw(models[id], output, loader);
  await frames();
}};
</script></body></html>"""

_SET_VSCODE_THEME = """([theme, style, bridge]) => {
    const old = theme === "vscode-high-contrast-light" ? " vscode-high-contrast" : "";
    document.body.className = theme + old;
    document.body.dataset.vscodeThemeKind = theme;
    document.documentElement.style.cssText = style;
    document.getElementById("bridge").textContent = bridge;
}"""


class ContractPage(ABC):
    """A notebook with chats in a host's outputs; `faults` records what must not happen."""

    def __init__(self, browser: Browser, html: str, viewport: ViewportSize | None = None) -> None:
        self.faults: list[str] = []
        self._html = html
        watched = {"pageerror": lambda error: self.faults.append(f"thrown: {error}")}
        self._lent = LentPage(browser, self._answer, watched, viewport=viewport)
        self.page = self._lent.page
        self.page.goto(f"{ORIGIN}/")
        bundle = {
            "js": (STATIC / "widget.js").read_text("utf-8"),
            "css": (STATIC / "widget.css").read_text("utf-8"),
        }
        self._keep("bundle", bundle)

    def _answer(self, route: Route) -> None:
        if route.request.url == f"{ORIGIN}/":
            route.fulfill(body=self._html, content_type="text/html")
        else:
            self.faults.append(f"asked for {route.request.url}")
            route.abort()

    def _keep(self, comm_id: str, state: dict[str, Any]) -> None:
        self.page.evaluate("([id, state]) => { kernel.states[id] = state; }", [comm_id, state])

    @abstractmethod
    def _chats(self) -> list[Page | Frame]:
        """Where the chats are, in their order."""

    def _show(self, comm_id: str) -> None:
        self.page.evaluate("args => window.show(...args)", [loader(), comm_id])

    def show(self, *messages: dict[str, Any], comm_id: str = "chat", **traits: Any) -> Locator:
        """Draw a chat in an output of its own, as a kernel does."""
        state = {
            "_comm_id": comm_id,
            "_bundle": "IPY_MODEL_bundle",
            "_view": "chat",
            "_control": True,
            "_engine": ENGINE,
            "_chat": {"rev": 1, "messages": list(messages)},
            "_live": {},
            "_options": {"models": ["demo"], "tools": []},
            **traits,
        }
        self._keep(comm_id, state)
        self._show(comm_id)
        return self._chats()[-1].locator(".mlcw").last

    def change(self, comm_id: str = "chat", **traits: Any) -> None:
        """Set traits from the kernel."""
        message = json.dumps({"method": "update", "state": traits})
        self.page.evaluate(f"window.comm({json.dumps(comm_id)}, {message})")

    def receive(self, content: dict[str, Any], comm_id: str = "chat") -> None:
        """Send a custom message from the kernel."""
        message = json.dumps({"method": "custom", "content": content})
        self.page.evaluate(f"window.comm({json.dumps(comm_id)}, {message})")

    def wait_for_intent(self, kind: str) -> None:
        """Wait until the kernel has got such an intent."""
        self.page.wait_for_function(
            "kind => kernel.intents.some((intent) => intent.kind === kind)", arg=kind
        )

    def close(self) -> None:
        self._lent.close()


class VSCodePage(ContractPage):
    """VS Code's frame of outputs."""

    def __init__(self, browser: Browser, viewport: ViewportSize | None = None) -> None:
        html = _VSCODE.format(variables=LAB_VARIABLES, model=_MODEL, kernel=_KERNEL)
        super().__init__(browser, html, viewport)
        self.set_theme("vscode-dark")

    def set_theme(self, theme: str, *, bridge: bool = False) -> None:
        """Change the theme; with `bridge`, all surfaces have one colour and all text one font."""
        style = "; ".join(f"{name}: {value}" for name, value in VSCODE_THEMES[theme].items())
        self.page.evaluate(_SET_VSCODE_THEME, [theme, style, BRIDGE if bridge else ""])

    def _chats(self) -> list[Page | Frame]:
        return [self.page]


class ColabPage(ContractPage):
    """Colab's notebook: each output in a frame of its own."""

    def __init__(self, browser: Browser, viewport: ViewportSize | None = None) -> None:
        self._output = _COLAB_OUTPUT.format(variables=LAB_VARIABLES + COLAB_VARIABLES, model=_MODEL)
        super().__init__(browser, _COLAB.format(kernel=_KERNEL), viewport)

    def set_theme(self, theme: str) -> None:
        """Change the theme of the outputs."""
        for frame in self._chats():
            frame.evaluate("theme => document.documentElement.setAttribute('theme', theme)", theme)

    def _show(self, comm_id: str) -> None:
        self.page.evaluate("args => window.show(...args)", [loader(), comm_id, self._output])

    def _chats(self) -> list[Page | Frame]:
        return list(self.page.frames[1:])


class MarimoPage(ContractPage):
    """marimo's page: each chat in the shadow root of an element of its own."""

    def __init__(self, browser: Browser, viewport: ViewportSize | None = None) -> None:
        super().__init__(browser, _MARIMO.format(model=_MODEL, kernel=_KERNEL), viewport)

    def set_theme(self, theme: str) -> None:
        """Change the theme: light or dark."""
        self.page.evaluate("theme => { document.body.className = theme; }", theme)

    def _chats(self) -> list[Page | Frame]:
        return [self.page]
