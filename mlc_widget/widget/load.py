"""`LoadProgress`: how far the load of a model is."""

from __future__ import annotations

import sys

import traitlets

from mlc_widget.widget.base import EngineWidget
from mlc_widget.widget.lasting import in_notebook
from mlc_widget.widget.link import link_of
from mlc_widget.widget.terminal import TerminalProgress


class LoadProgress(EngineWidget):
    """Shows phase, percentage, bytes, speed and time while an engine loads a model.

    It follows the engine for as long as both live: later loads and failures are shown, too.

    Args:
        engine: An `AsyncKernelMLCEngine` or a `KernelMLCEngine`.

    Raises:
        TypeError: for another kind of engine.
    """

    _view = traitlets.Unicode("load", read_only=True).tag(sync=True)

    def __init__(self, engine: object) -> None:
        super().__init__(engine)

    def __repr__(self) -> str:
        snapshot = self._link.snapshot
        return f"<LoadProgress {snapshot.model_id or 'no model'}: {snapshot.state}>"


def display_load_progress(core: object) -> None:
    """Show how far a load is: a `LoadProgress` below the current cell, or a line in a terminal.

    Does nothing where there is neither.
    """
    if in_notebook():
        from IPython.display import display

        display(LoadProgress(core))  # type: ignore[no-untyped-call]
    elif sys.stderr is not None and sys.stderr.isatty():
        TerminalProgress(link_of(core), sys.stderr)
