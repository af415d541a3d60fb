"""One quiet line that tells how far a map is, in a terminal and in a notebook."""

from __future__ import annotations

import contextlib
import sys
import time
from importlib import import_module
from typing import Any, Final

from mlc_widget.api.table.report import MapReport, MapRow

_TERMINAL_S: Final = 0.1
_NOTEBOOK_S: Final = 0.5


class ProgressLine:
    """The report in a line that is written over and over, or nothing where nobody would see it.

    Args:
        report: What it shows.
        shown: Whether to show anything.
    """

    def __init__(self, report: MapReport, shown: bool) -> None:
        self._report = report
        self._last = time.monotonic()
        self._width = 0
        self._handle: Any = None
        self._notebook = shown and _in_notebook()
        self._terminal = shown and not self._notebook and sys.stderr.isatty()

    def update(self, row: MapRow) -> None:
        """Show the report, unless that was done just now."""
        if not self._notebook and not self._terminal:
            return
        now = time.monotonic()
        if now - self._last >= (_NOTEBOOK_S if self._notebook else _TERMINAL_S):
            self._last = now
            self._show()

    def end(self) -> None:
        """Show the report for the last time, and leave it there."""
        if self._notebook or self._terminal:
            self._show()
        if self._terminal:
            sys.stderr.write("\n")
            sys.stderr.flush()

    def _show(self) -> None:
        line = f"map: {self._report}"
        if self._terminal:
            sys.stderr.write("\r" + line.ljust(self._width))
            sys.stderr.flush()
            self._width = len(line)
            return
        with contextlib.suppress(Exception):  # a broken display must not end the map
            bundle = {"text/plain": line}
            if self._handle is None:
                display: Any = import_module("IPython.display").display
                self._handle = display(bundle, raw=True, display_id=True)
            else:
                self._handle.update(bundle, raw=True)


def _in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None
