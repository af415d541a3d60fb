"""The bundle alone in a page, with a model that the test controls: for layout and hostile text.

There is no kernel and no server. Every request except those for the page itself is refused and
recorded, and so is everything that looks like a foreign script.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from playwright.sync_api import Browser, Locator, Page, Route, ViewportSize

import mlc_widget.widget

from .lab import DEADLINE_MS

ORIGIN = "http://widget.test"
_STATIC = Path(mlc_widget.widget.__file__).parent / "static"
_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>A notebook</title>
<link rel="stylesheet" href="/widget.css">
<style>body { margin: 12px; background: light-dark(#fff, #111); color-scheme: light dark; }</style>
</head><body data-jp-theme-light="%s"><main id="main"></main><script type="module">
import widget from "/widget.js";
const makeModel = (more = {}) => {
  const callbacks = {};
  const model = {
    traits: {},
    get: (name) => model.traits[name],
    send: (content) => {
      window.sent.push(content.intent);
      setTimeout(() => model.emit("msg:custom", {type: "ack", intent: content.id, error: null}));
    },
    on: (event, callback) => (callbacks[event] ??= new Set()).add(callback),
    off: (event, callback) => callbacks[event]?.delete(callback),
    emit: (event, ...args) => { for (const callback of callbacks[event] ?? []) callback(...args); },
    ...more,
  };
  return model;
};
const model = makeModel();
window.sent = [];
window.show = (values, views) => {
  model.traits = {_comm_id: "c", _control: false, _view: "chat", ...values};
  widget.initialize({model});
  for (let view = 0; view < views; view++) {
    const el = document.createElement("div");
    document.getElementById("main").append(el);
    widget.render({model, el});
  }
};
// Two chats side by side, each with these traits.
window.showTwo = (chats) => {
  const models = chats.map((traits, i) => Object.assign(makeModel(),
    {traits: {_comm_id: `chat${i}`, _control: false, _view: "chat", ...traits}}));
  const two = makeModel({widget_manager: {get_model: async (id) => models[Number(id.at(-1))]}});
  two.traits = {_comm_id: "two", _control: false, _view: "compare", _chosen: {chat: null},
    _chats: ["IPY_MODEL_chat0", "IPY_MODEL_chat1"]};
  widget.initialize({model: two});
  const el = document.createElement("div");
  document.getElementById("main").append(el);
  widget.render({model: two, el});
};
window.change = (values) => {
  Object.assign(model.traits, values);
  for (const name of Object.keys(values)) model.emit(`change:${name}`);
};
window.receive = (content) => model.emit("msg:custom", content);
window.frame = () => new Promise((resolve) =>
  requestAnimationFrame(() => requestAnimationFrame(resolve)));
window.ready = true;
</script></body></html>"""

ENGINE: dict[str, Any] = {
    "rev": 1,
    "state": "ready",
    "model": "demo",
    "device": "cpu",
    "runtime": "tvm",
    "window": 4096,
    "memory_bytes": 16_000_000_000,
    "memory_used_bytes": 312_000_000,
    "progress": None,
    "error": None,
    "hang": None,
}


def user(text: str, message_id: str = "u", **more: Any) -> dict[str, Any]:
    return {"id": message_id, "role": "user", "text": text, "status": "done", **more}


def reply(text: str, status: str = "done", message_id: str = "a", **more: Any) -> dict[str, Any]:
    return {"id": message_id, "role": "assistant", "text": text, "status": status, **more}


STATS = {"ttft_s": 0.042, "tokens_per_s": 38.2, "prompt_tokens": 212, "completion_tokens": 96}


class LentPage:
    """A page for one test after the other, with that test's answers to requests and listeners.

    Such a page is loaded anew for the next test of the same window, which takes a third of the CPU
    of another page: so they share a context, but no document.
    """

    _closed: ClassVar[WeakKeyDictionary[Browser, list[Page]]] = WeakKeyDictionary()

    def __init__(
        self,
        browser: Browser,
        answer: Callable[[Route], None],
        watched: dict[str, Callable[[Any], None]],
        dark: bool = False,
        viewport: ViewportSize | None = None,
        context: dict[str, Any] | None = None,
    ) -> None:
        """Take a page that was closed, or another one.

        Args:
            browser: The browser.
            answer: What answers all requests.
            watched: What listens to the page's events.
            dark: The system's colours are dark.
            viewport: The page's size.
            context: Other options of a context, which is then the page's own.
        """
        closed = self._closed.setdefault(browser, [])
        self._shared = None if context else closed
        self.page = closed.pop() if closed and not context else browser.new_page(**(context or {}))
        self.page.set_default_timeout(DEADLINE_MS)
        self.page.emulate_media(color_scheme="dark" if dark else "light")
        self.page.set_viewport_size(viewport or ViewportSize(width=1280, height=720))
        self.page.route("**/*", answer)
        self._watched = watched
        watch: Any = self.page.on
        for event, handler in watched.items():
            watch(event, handler)

    def close(self) -> None:
        """Leave the page to the next test, or close it if its context is its own."""
        if self._shared is None:
            self.page.close()
            return
        self.page.goto("about:blank")
        self.page.unroute_all()
        for event, handler in self._watched.items():
            self.page.remove_listener(event, handler)
        self._shared.append(self.page)


class WidgetPage:
    """A page with one widget; `faults` records what it must never do."""

    def __init__(
        self,
        browser: Browser,
        *,
        dark: bool = False,
        viewport: ViewportSize | None = None,
        **context: Any,
    ) -> None:
        """Open it.

        Args:
            browser: The browser.
            dark: The system's colours are dark.
            viewport: The page's size.
            context: Other options of a context, which is then the page's own.
        """
        self.faults: list[str] = []
        watched: dict[str, Callable[[Any], None]] = {
            "pageerror": lambda error: self.faults.append(f"thrown: {error}"),
            "dialog": self._on_dialog,
            "popup": lambda popup: self.faults.append(f"opened {popup.url}"),
        }
        self._lent = LentPage(browser, self._answer, watched, dark, viewport, context)
        self.page = self._lent.page
        self._html = _HTML % str(not dark).lower()
        self.page.goto(f"{ORIGIN}/")
        self.page.wait_for_function("window.ready === true")

    def _on_dialog(self, dialog: Any) -> None:
        self.faults.append("dialog")
        dialog.dismiss()

    def _answer(self, route: Route) -> None:
        path = route.request.url.removeprefix(ORIGIN)
        if path == "/":
            route.fulfill(body=self._html, content_type="text/html")
        elif path in ("/widget.js", "/widget.css"):
            route.fulfill(path=_STATIC / path[1:])
        elif path == "/favicon.ico":
            route.fulfill(body="", content_type="image/png")
        else:
            self.faults.append(f"asked for {route.request.url}")
            route.abort()

    def show(self, *messages: dict[str, Any], views: int = 1, **traits: Any) -> Locator:
        """Draw the widget; returns its first view."""
        values = {
            "_engine": ENGINE,
            "_chat": {"rev": 1, "messages": list(messages)},
            "_live": {},
            "_options": {"models": ["demo"], "tools": []},
            **traits,
        }
        self.page.evaluate(f"window.show({json.dumps(values)}, {views})")
        self.frame()
        return self.page.locator(".mlcw").first

    def show_two(self, *chats: dict[str, Any]) -> Locator:
        """Draw two chats side by side, with these traits."""
        values = [
            {"_engine": ENGINE, "_live": {}, "_options": {"models": ["demo"], "tools": []}, **chat}
            for chat in chats
        ]
        self.page.evaluate(f"window.showTwo({json.dumps(values)})")
        shown = self.page.locator(".mlcw-compare")
        shown.wait_for()
        self.frame()
        return shown

    def change(self, **traits: Any) -> None:
        self.page.evaluate(f"window.change({json.dumps(traits)})")
        self.frame()

    def sent(self) -> list[dict[str, Any]]:
        """The intents of the user's, in order."""
        kinds = ["edit", "select", "delete", "set", "load"]
        found: list[dict[str, Any]] = self.page.evaluate(
            "kinds => window.sent.filter((intent) => kinds.includes(intent?.kind))", kinds
        )
        return found

    def wait_for_sent(self, count: int) -> None:
        """Wait until so many have come."""
        deadline = time.monotonic() + 30
        while len(self.sent()) < count and time.monotonic() < deadline:
            self.frame()

    def frame(self) -> None:
        self.page.evaluate("window.frame()")

    def close(self) -> None:
        """Leave the page to the next test, or close it if its context is its own."""
        self._lent.close()
