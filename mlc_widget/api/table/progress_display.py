"""Where the widgets register what shows the progress of a map on a page.

Engines know no widget, so the package registers its own here when it is imported
(docs/architecture.md, "Layers"). Without one, a map's progress is one line of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mlc_widget.api.home_loop import HomeLoop
    from mlc_widget.api.table.report import MapReport, MapRow


class ProgressView(Protocol):
    """Shows a map's report and its last rows; used on the thread that runs the map."""

    def update(self, row: MapRow) -> None:
        """A row has finished. Called for each, so it must be cheap."""

    def end(self) -> None:
        """The map has ended; the report says how."""


class ProgressDisplay(Protocol):
    """Opens the view of a map that begins."""

    def __call__(
        self, report: MapReport, asked: Sequence[str], made: Sequence[str], home: HomeLoop, /
    ) -> ProgressView | None:
        """Show a map's progress.

        Args:
            report: The map's counts, which can also pause and stop it.
            asked: The names of the prompt's columns.
            made: The names of the new columns.
            home: The loop on which messages of the page are handled.

        Returns:
            The view; None where there is no page.
        """


_registered: ProgressDisplay | None = None


def register_progress_display(display: ProgressDisplay | None) -> ProgressDisplay | None:
    """Have `display` show the progress of all maps that begin from now on.

    Returns:
        What was registered before.
    """
    global _registered
    previous, _registered = _registered, display
    return previous


def progress_display() -> ProgressDisplay | None:
    """What is registered."""
    return _registered
