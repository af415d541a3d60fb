"""`LoadProgress`: shows the progress of a model's load."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import traitlets

from mlc_widget.api.engine_link import EngineSnapshot
from mlc_widget.api.errors import MLCEngineError
from mlc_widget.api.tracebacks import releases_locals
from mlc_widget.widget.base import EngineWidget
from mlc_widget.widget.link import link_of
from mlc_widget.widget.page_session import in_marimo, show_in_marimo
from mlc_widget.widget.stand_in import show_widget
from mlc_widget.widget.terminal import PlainProgress, TerminalProgress
from mlc_widget.widget.transcript_output import in_notebook

_LAST_LINE_S: Final = 1.0


class LoadProgress(EngineWidget):
    """Shows phase, percentage, bytes, speed and time while an engine loads a model.

    It follows the engine for as long as both live: later loads and failures are shown, too,
    except for a later load that failed and left the engine's model as it was.

    Args:
        engine: An engine in a worker kernel or on a server.

    Raises:
        TypeError: the engine is neither in a worker kernel nor on a server.
    """

    _view = traitlets.Unicode("load", read_only=True).tag(sync=True)

    @releases_locals
    def __init__(self, engine: object) -> None:
        self._began = self._done = False
        super().__init__(engine)

    def _on_engine(self, snapshot: EngineSnapshot) -> None:
        self._began |= snapshot.state in ("starting", "loading")
        self._done |= self._began and snapshot.state == "ready" and snapshot.failed is None
        super()._on_engine(replace(snapshot, failed=None) if self._done else snapshot)

    def _ipython_display_(self) -> None:
        """Show the widget, and below it what stands in for it in a saved notebook."""
        if in_notebook():
            show_widget(self, "Run this cell to load the model again.", repr(self))
        else:
            print(repr(self))

    def __repr__(self) -> str:
        # A saved notebook keeps this, so it does not say how far the load has come.
        model = self._link.snapshot.model_id
        return f"<LoadProgress of {model}>" if model else "<LoadProgress>"


class _RaisedLoadProgress(LoadProgress):
    """`LoadProgress` of a cell that raises the error of a failed load, and warns as Python does.

    The panel names the error's class only, as the cell's traceback below it has the message, and
    leaves the warning to the cell, too.
    """

    def _on_engine(self, snapshot: EngineSnapshot) -> None:
        if not self._done and isinstance(snapshot.error, MLCEngineError):
            snapshot = replace(snapshot, error=type(snapshot.error)(""))
        if snapshot.progress is not None:
            snapshot = replace(snapshot, progress=replace(snapshot.progress, warning=""))
        super()._on_engine(snapshot)


def display_load_progress(engine: object, *, raised: bool = False) -> Callable[[], object]:
    """Show a load's progress: a `LoadProgress` below the current cell, or text on stderr.

    On a terminal, that is one line. In a file or a pipe, as in CI, it is a few lines, and none for
    a short load.

    Args:
        engine: An engine in a worker kernel or on a server.
        raised: Whether the caller raises the load's error, so that it need not be shown here.

    Returns:
        A function to call once the load has ended. It blocks until the last line is complete, so
        that later output comes after it.
    """
    panel = _RaisedLoadProgress if raised else LoadProgress
    if in_notebook():
        from IPython.display import display

        display(panel(engine))  # type: ignore[no-untyped-call]
    elif in_marimo():
        show_in_marimo(panel(engine))
    elif sys.stderr is not None:
        follower = TerminalProgress if sys.stderr.isatty() else PlainProgress
        return partial(follower(link_of(engine), sys.stderr).join, _LAST_LINE_S)
    return lambda: None
