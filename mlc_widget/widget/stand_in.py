"""What a saved notebook shows where a widget was, once its kernel is gone.

JupyterLab and Notebook 7 write "Error displaying widget: model not found" in place of a widget
whose model is gone, although the notebook is whole. So each widget is followed by an output of
HTML: a line that says how to get the widget back, and rules that hide the line while the widget is
drawn, and the widget's own output while it is not. The rules stand in the notebook, since without
a kernel nothing else of ours is on the page. Readers that remove them (GitHub, for example) show
the line and no widget.

The button runs JupyterLab's own command by its command linker. Its label is in the style sheet, so
that it is not there where the command is not.
"""

from __future__ import annotations

from html import escape
from typing import Any, Final
from urllib.parse import quote

from mlc_widget.api.clients import client_of
from mlc_widget.api.requests import JSONDict

_CHILD: Final = ".jp-OutputArea-child"
# A widget that is drawn marks its output, or the page where outputs have no elements of their own
# (js/src/output-mark.ts). `:has(.mlcw)` would find it, too, but would cost every frame of a reply
# that grows more than all else: the browser would look through the whole chat. For the same reason,
# `:not` stands before each `:has`, so that the browser does not look into an output that is marked.
_SHOWS: Final = "[data-mlcw-shows]"
_STYLE: Final = (
    # A widget that is not drawn has only text: "Loading widget..." or the error.
    f"{_CHILD}:not({_SHOWS}, :has(> .jp-OutputArea-output > *)):has(+ {_CHILD} .mlcw-stand-in),"
    f"{_SHOWS} + {_CHILD}:not({_SHOWS}):has(.mlcw-stand-in),"
    f"html{_SHOWS} .mlcw-stand-in{{display:none}}"
    ".mlcw-stand-in{align-items:baseline;display:flex;flex-wrap:wrap;gap:4px 12px;"
    "font:13px/1.5 var(--jp-ui-font-family,system-ui,sans-serif);margin:4px 0;opacity:.8}"
    # The command is JupyterLab's and Notebook 7's; exported pages have only their outer classes.
    ".jp-NotebookPanel .jp-OutputArea .mlcw-run-up-to{background:none;"
    "border:1px solid currentColor;border-radius:6px;color:inherit;cursor:pointer;display:inline;"
    "font:inherit;line-height:20px;padding:1px 10px}"
    '.mlcw-run-up-to::before{content:"Run all up to here"}'
    "@media print{.mlcw-run-up-to{display:none!important}}"
)
# A `style` element's text would be read in Markdown that is made from the notebook.
_LINK: Final = f'<link rel="stylesheet" href="data:text/css,{quote(_STYLE)}">'
_BUTTON: Final = (
    '<button type="button" class="mlcw-run-up-to" hidden aria-label="Run all up to here" '
    'title="Restarts the kernel and runs all cells up to this one" '
    'data-commandlinker-command="notebook:restart-and-run-to-selected" '
    'data-commandlinker-args="{}"></button>'
)


def stand_in(sentence: str) -> JSONDict:
    """The MIME bundle of the output that follows a widget.

    Args:
        sentence: How to get the widget back, as plain text.
    """
    line = f'<div class="mlcw-stand-in"><span>{escape(sentence)}</span>{_BUTTON}</div>'
    return {"text/html": f"{_LINK}{line}", "text/plain": ""}


def show_widget(widget: Any, sentence: str, text: str = "") -> None:
    """Display a widget below the running cell, and what stands in for it later.

    Args:
        widget: An ipywidgets widget.
        sentence: As in `stand_in`.
        text: For readers of plain text. A widget's repr would stay as it is now.
    """
    from IPython import get_ipython
    from IPython.display import display

    shown: Any = widget._repr_mimebundle_() or ({}, {})
    display({**shown[0], "text/plain": text}, raw=True, metadata=shown[1])  # type: ignore[no-untyped-call]
    if client_of(get_ipython()) != "console":
        display(stand_in(sentence), raw=True)  # type: ignore[no-untyped-call]
