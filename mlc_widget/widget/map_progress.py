"""`MapProgress`: how far `engine.map` is, its last rows, and buttons to pause and stop it."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import traitlets

from mlc_widget.api.clients import client_of
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.requests import JSONDict
from mlc_widget.api.table.progress_display import ProgressView
from mlc_widget.api.table.report import MapReport, MapRow
from mlc_widget.widget.base import PageWidget, mirror
from mlc_widget.widget.intents import Handler
from mlc_widget.widget.map_summary import short_text, summary_html, summary_text
from mlc_widget.widget.transcript_output import TranscriptOutput, in_notebook

_log = logging.getLogger(__name__)
_INTERVAL_S: Final = 0.25
_RUNS: Final = ("waiting", "running", "paused")
_ROWS: Final = 6
"""Rows that are shown, the newest last."""
_ASKED: Final = 2
_MADE: Final = 5
"""Columns that are shown at most, of the prompt and of the reply."""


class MapProgress(PageWidget):
    """Shows the progress of a map; the page can pause, resume and stop it.

    A summary of it stays in the saved notebook.

    Args:
        report: The map's report.
        asked: The columns of the prompt.
        made: The new columns.
        home: The loop on which intents are handled.

    Traits, beside those of `PageWidget`:
        _map: ``{"rev", "state", "total", "rows", "cached", "skipped", "errors", "truncated",
            "rows_per_s", "tokens_per_s", "elapsed", "eta_s", "first_error", "columns", "last"}``;
            ``last`` has a ``{"index", "cells", "error", "cached"}`` for each of the last rows.
    """

    _view = traitlets.Unicode("map", read_only=True).tag(sync=True)
    _map = mirror("_map")

    def __init__(
        self, report: MapReport, asked: Sequence[str], made: Sequence[str], home: HomeLoop
    ) -> None:
        self._report = report
        self._home = home
        self._columns = _Columns(asked, made)
        self._last: deque[MapRow] = deque(maxlen=_ROWS)
        self._due = False
        self._final: JSONDict | None = None
        self._rev = 0
        self._summary = TranscriptOutput(self._summary_bundle, self.send)
        super().__init__(home.call_soon, {"_map": self._to_json})

    def _intents(self) -> Mapping[str, Handler]:
        return {
            **super()._intents(),
            **self._summary.intents(),
            "pause": lambda _: self._act(self._report.pause),
            "resume": lambda _: self._act(self._report.resume),
            "stop": lambda _: self._act(self._report.stop),
        }

    def _act(self, action: Callable[[], None]) -> None:
        if self._final is None:  # else the report may be another map's by now
            action()
            self._push()

    def show(self) -> None:
        """Display it below the running cell."""
        self._summary.show_below(self, "Run this cell again to get the table.")

    def update(self, row: MapRow) -> None:
        """A row has finished."""
        self._last.append(row)
        if not self._due:
            self._due = True
            self._home.call_soon(self._push_later)

    def _push_later(self) -> None:
        self._home.loop.call_later(_INTERVAL_S, self._push_due)

    def _push_due(self) -> None:
        self._due = False
        if self._final is None:
            self._push()

    def _push(self) -> None:
        self._rev += 1
        self.send_state("_map")

    def end(self) -> None:
        """The map has ended."""
        self._final = self._to_json()
        self._last.clear()
        self._push()
        self._summary.update()

    def _to_json(self) -> JSONDict:
        if self._final is not None:
            return {**self._final, "rev": self._rev}
        report = self._report
        return {
            "rev": self._rev,
            "state": "stopping" if report.stops and report.state in _RUNS else report.state,
            "total": report.total,
            "rows": report.rows,
            "cached": report.cached,
            "skipped": report.skipped,
            "errors": report.errors,
            "truncated": report.truncated,
            "rows_per_s": report.rows_per_s,
            "tokens_per_s": report.tokens_per_s,
            "elapsed": report.active_seconds,
            "eta_s": report.seconds_left,
            "first_error": (report.first_error or "")[:500],
            "columns": self._columns.names,
            "last": [self._columns.shown(row) for row in tuple(self._last)],
        }

    def _summary_bundle(self) -> JSONDict:
        shown = self._to_json()
        return {"text/html": summary_html(shown), "text/plain": summary_text(shown)}

    def __repr__(self) -> str:
        return "<MapProgress>"  # a saved notebook keeps this


class _Columns:
    """The columns that are shown."""

    def __init__(self, asked: Sequence[str], made: Sequence[str]) -> None:
        self.asked, self.made = tuple(asked[:_ASKED]), tuple(made[:_MADE])
        self.names = [short_text(name) for name in (*self.asked, *self.made)]

    def shown(self, row: MapRow) -> JSONDict:
        """A row as the page gets it: texts of bounded length."""
        cells = [row.row.get(name) for name in self.asked]
        cells += [row.values.get(name) for name in self.made]
        return {
            "index": row.index,
            "cells": [short_text(value) for value in cells],
            "error": None if row.error is None else short_text(row.error.message),
            "cached": row.cached,
        }


def display_map_progress(
    report: MapReport, asked: Sequence[str], made: Sequence[str], home: HomeLoop
) -> ProgressView | None:
    """Show a map's progress below the current cell.

    Returns:
        What to tell of finished rows and of the end; None where there is no page.
    """
    if not in_notebook() or client_of(sys.modules["IPython"].get_ipython()) != "page":
        return None
    try:
        widget = MapProgress(report, asked, made, home)
        widget.show()
    except Exception as error:  # without the bundle, or a page: a map does not need either
        _log.debug("the progress of a map cannot be shown: %r", error)
        return None
    return widget
