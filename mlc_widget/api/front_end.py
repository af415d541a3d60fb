"""What the layers above add to engines: `mlc_widget` sets it when it is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

map_progress: Callable[..., Any] | None = None
"""Shows the progress of a map on a page: (report, names of the prompt's columns, names of the new
columns, home loop) to a `ProgressView`, or to None where there is no page."""
