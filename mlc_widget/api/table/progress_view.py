"""What shows the progress of a map: a widget where there is a page, else one line of text."""

from __future__ import annotations

from typing import Protocol

from mlc_widget.api import front_end
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.table.plan import MapPlan
from mlc_widget.api.table.progress_line import ProgressLine
from mlc_widget.api.table.report import MapRow


class ProgressView(Protocol):
    """Shows a map's report and its last rows; used on the thread that runs the map."""

    def update(self, row: MapRow) -> None:
        """A row has finished. Called for each, so it must be cheap."""

    def end(self) -> None:
        """The map has ended; the report says how."""


def open_progress_view(plan: MapPlan, home: HomeLoop) -> ProgressView:
    """Show a map's progress where somebody sees it.

    Args:
        plan: The map.
        home: The loop on which the front end's messages are handled.
    """
    if plan.shows_progress and front_end.map_progress is not None:
        asked = sorted(plan.prompt.columns or ())
        view: ProgressView | None = front_end.map_progress(
            plan.report, asked, list(plan.schema.columns), home
        )
        if view is not None:
            return view
    return ProgressLine(plan.report, plan.shows_progress)
