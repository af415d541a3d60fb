"""Opens what shows the progress of a map: a view on a page, or else one line of text."""

from __future__ import annotations

from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.table.plan import MapPlan
from mlc_widget.api.table.progress_display import ProgressView, progress_display
from mlc_widget.api.table.progress_line import ProgressLine


def open_progress_view(plan: MapPlan, home: HomeLoop) -> ProgressView:
    """Show a map's progress where somebody sees it.

    Args:
        plan: The map.
        home: The loop on which messages of the page are handled.
    """
    display = progress_display()
    if plan.shows_progress and display is not None:
        asked = sorted(plan.prompt.columns or ())
        view = display(plan.report, asked, list(plan.schema.columns), home)
        if view is not None:
            return view
    return ProgressLine(plan.report, plan.shows_progress)
