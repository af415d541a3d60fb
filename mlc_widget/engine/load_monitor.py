"""Turns a runtime's reports into `InitProgressReport`s: overall progress, speed, ETA, throttled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from mlc_widget.api.progress import InitPhase, InitProgressReport

_SPANS: Final[dict[InitPhase, tuple[float, float]]] = {
    "resolve": (0.0, 0.02),
    "download": (0.02, 0.40),
    "convert": (0.02, 0.44),  # of a model that is here, as a rule
    "verify": (0.40, 0.45),
    "compile": (0.45, 0.75),
    "load": (0.75, 0.97),
    "warm up": (0.97, 1.0),
}
PREPARED: Final = _SPANS["convert"][1]
"""The progress of a model whose files are here and whose weights are about to be checked."""
_MIN_INTERVAL_S: Final = 0.03


class LoadMonitor:
    """A `LoadReporter` for one model of a load. Reports reach `emit` on the loop that made it.

    Args:
        model_id: The model being loaded.
        emit: Called with each report.
        started: When the whole load began, by `time.monotonic`.
        part: This model's share of the whole load, as (low, high) within 0 to 1.
    """

    def __init__(
        self,
        model_id: str,
        emit: Callable[[InitProgressReport], None],
        *,
        started: float,
        part: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self._model_id = model_id
        self._emit = emit
        self._started = started
        self._part = part
        self._loop = asyncio.get_running_loop()
        self._progress = part[0]
        self._phase: InitPhase | None = None
        self._phase_started = started
        self._bytes_before: int | None = None
        self._last_emit = 0.0

    def __call__(
        self,
        phase: InitPhase,
        fraction: float,
        text: str,
        *,
        bytes_done: int | None = None,
        bytes_total: int | None = None,
        warning: str = "",
    ) -> None:
        """Take a report, from any thread."""
        now = time.monotonic()
        new_phase = phase != self._phase
        if not new_phase and fraction < 1 and now - self._last_emit < _MIN_INTERVAL_S:
            return
        if new_phase:
            self._phase, self._phase_started, self._bytes_before = phase, now, None
        self._last_emit = now
        low, high = _SPANS[phase]
        within = low + (high - low) * min(max(fraction, 0.0), 1.0)
        first, last = self._part
        self._progress = max(self._progress, first + (last - first) * within)
        speed = eta = None
        took = now - self._phase_started
        if bytes_done is not None and self._bytes_before is None:
            # What an earlier download left, or the cache has, took no time.
            self._bytes_before = bytes_done if phase == "download" else 0
        if bytes_done is not None and took > 0:
            speed = max(bytes_done - (self._bytes_before or 0), 0) / took
            if bytes_total is not None and speed > 0:
                eta = max(bytes_total - bytes_done, 0) / speed
        report = InitProgressReport(
            progress=self._progress,
            time_elapsed=now - self._started,
            text=text,
            phase=phase,
            model_id=self._model_id,
            bytes_done=bytes_done,
            bytes_total=bytes_total,
            bytes_per_s=speed,
            eta_s=eta,
            warning=warning,
        )
        self._loop.call_soon_threadsafe(self._emit, report)


class LoadScale:
    """The monitors of a load of several models, which together go from 0 to 1 and never back."""

    def __init__(self, count: int, emit: Callable[[InitProgressReport], None]) -> None:
        self._count, self._emit = count, emit
        self._started = time.monotonic()
        self._highest = 0.0
        self._warnings: list[str] = []

    def preparing(self, index: int, model_id: str) -> LoadMonitor:
        """For what comes before the weights; `LoadMonitor` ends it at `PREPARED`."""
        low = PREPARED * index / self._count
        return self._monitor(model_id, (low, low + 1 / self._count))

    def loading(self, index: int, model_id: str) -> LoadMonitor:
        """For the rest."""
        high = PREPARED + (1 - PREPARED) * (index + 1) / self._count
        return self._monitor(model_id, (high - 1 / self._count, high))

    def _monitor(self, model_id: str, part: tuple[float, float]) -> LoadMonitor:
        return LoadMonitor(model_id, self._forward, started=self._started, part=part)

    def _forward(self, report: InitProgressReport) -> None:
        self._highest = max(self._highest, report.progress)
        if report.warning:
            self._warnings.append(report.warning)
        # With all warnings so far, as only the newest report is sure to be read.
        warning = " ".join(self._warnings)
        self._emit(replace(report, progress=self._highest, warning=warning))
