"""Progress reports of a load, and its cancellation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from mlc_widget.api.progress import LoadReporter
from mlc_widget.engine.runtimes.base import ReplacedModels


class Cancelled(Exception):
    """The load was cancelled; raised by the next report."""


class Progress:
    """Passes reports on; after a cancellation, the next report ends the load by raising."""

    def __init__(
        self,
        report: LoadReporter,
        cancelled: threading.Event,
        replaces: ReplacedModels | None = None,
    ) -> None:
        self.report, self.cancelled = report, cancelled
        self.replaces = replaces
        """Models that may be unloaded to make room."""

    def __call__(self, phase: Any, fraction: float, text: str, **counts: int) -> None:
        """Report, or raise `Cancelled`."""
        if self.cancelled.is_set():
            raise Cancelled
        self.report(phase, fraction, text, **counts)

    def bytes(self, phase: Any, text: str) -> Callable[[int, int], None]:
        """A function that reports the bytes done and the total."""

        def progress(done: int, total: int) -> None:
            self(phase, done / max(1, total), text, bytes_done=done, bytes_total=total)

        return progress
