"""The front end's code, sent once for all widgets of a Jupyter kernel.

A widget's state is saved in the notebook, and anywidget makes its module a part of that. Ours is a
few lines that find the real one (js/src/loader.ts): another model, whose id is the same wherever
the code is, so that a notebook has it once however many widgets there are and kernels there were.
A process that is no Jupyter kernel may serve many pages (Shiny, marimo's apps, Solara), each of
which needs models of its own, so there each widget has one.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from functools import cache
from pathlib import Path
from typing import Final

import ipywidgets
import traitlets

from mlc_widget.widget.transcript_output import in_notebook

STATIC: Final = Path(__file__).parent / "static"
_NAMES: Final = ("loader.js", "widget.js", "widget.css")
_guard = threading.Lock()
_current: Bundle | None = None


class Bundle(ipywidgets.Widget):  # type: ignore[misc]
    """A model without a view.

    Traits:
        js: The module with `initialize` and `render`, as anywidget's.
        css: Its style sheet.
    """

    js = traitlets.Unicode(read_only=True).tag(sync=True)
    css = traitlets.Unicode(read_only=True).tag(sync=True)

    def __init__(self, js: str, css: str, *, shared: bool = True) -> None:
        self.set_trait("js", js)
        self.set_trait("css", css)
        digest = hashlib.sha256(f"{js}\0{css}".encode()).hexdigest()[:24]
        super().__init__(model_id=f"mlc-widget-{digest if shared else uuid.uuid4().hex}")

    def __repr__(self) -> str:
        return f"<Bundle {self.model_id}>"


@cache
def loader() -> str:
    """The module of every widget; empty if the front end has not been built."""
    path = STATIC / _NAMES[0]
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def current_bundle() -> Bundle:
    """The bundle for a new widget.

    In a Jupyter kernel, it is sent to the page at the first call, and again after it was closed or
    rebuilt.

    Raises:
        RuntimeError: the front end has not been built; the message says how to.
    """
    global _current
    if not all((STATIC / name).is_file() for name in _NAMES):
        raise RuntimeError(
            "the widget's JavaScript has not been built: run `npm ci && npm run build` in js/, "
            "or install the package with `pip install .`"
        )
    js, css = ((STATIC / name).read_text(encoding="utf-8") for name in _NAMES[1:])
    if not in_notebook():
        return Bundle(js, css, shared=False)
    with _guard:
        known = _current
        if known is None or known.comm is None or (known.js, known.css) != (js, css):
            _current = known = Bundle(js, css)
        return known
