"""`LoadProgress`: how far the load of a model is."""

from __future__ import annotations

import traitlets

from mlc_widget.widget.base import EngineWidget


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
    """Show a `LoadProgress` of an engine, or of its core, below the current cell.

    Does nothing outside a Jupyter kernel, where there is no page to show it.
    """
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return
    if getattr(get_ipython(), "kernel", None) is not None:
        display(LoadProgress(core))  # type: ignore[no-untyped-call]
