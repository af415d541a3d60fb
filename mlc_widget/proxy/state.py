"""What is known of a kernel engine at one moment, for whoever shows it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from mlc_widget.api.errors import MLCEngineError
from mlc_widget.api.progress import InitProgressReport

logger = logging.getLogger(__name__)

EngineState: TypeAlias = Literal["idle", "starting", "loading", "ready", "dead", "terminated"]

HangingPart: TypeAlias = Literal["worker", "engine"]


@dataclass(frozen=True, slots=True)
class Hang:
    """No sign of life for longer than is usual; it may pass.

    Attributes:
        part: ``worker`` answers nothing, or ``engine``: the worker answers, but a model has been at
            one step for all that time.
        since: When there was the last sign of life, by `time.monotonic`.
    """

    part: HangingPart
    since: float

    @property
    def seconds(self) -> float:
        """For how long there has been none."""
        return time.monotonic() - self.since

    @property
    def message(self) -> str:
        """A sentence that says so."""
        what = "worker has not answered" if self.part == "worker" else "engine has made no step"
        return f"The {what} for {self.seconds:.0f} s; it may be hung."


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """An immutable view; a new one is made at each change.

    Attributes:
        state: ``idle`` has a worker or none, and no model; ``dead`` restarts on next use.
        model_id: The model that is loaded or loading; several are joined by commas.
        progress: The last report of the load that runs, or of the last one.
        error: Why the last load failed, or the worker died.
        device: What the model runs on, where known.
        hang: How the worker seems to hang, if it does; its state is then still what it was.
    """

    state: EngineState = "idle"
    model_id: str | None = None
    progress: InitProgressReport | None = None
    error: MLCEngineError | None = None
    device: str | None = None
    hang: Hang | None = None


Observer: TypeAlias = Callable[[EngineSnapshot], object]


class SnapshotBoard:
    """Holds the present snapshot, which any thread may read; changed on the home loop."""

    def __init__(self) -> None:
        self.snapshot = EngineSnapshot()
        self._observers: list[Observer] = []

    def update(self, **changes: Any) -> None:
        """Replace fields of the snapshot and tell the observers."""
        self.snapshot = replace(self.snapshot, **changes)
        for observer in list(self._observers):
            try:
                observer(self.snapshot)
            except Exception:  # whoever watches must not break what it watches
                logger.exception("an observer of the engine's state failed")

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Have `observer` called with each new snapshot; returns the undo."""
        self._observers.append(observer)

        def stop() -> None:
            with contextlib.suppress(ValueError):
                self._observers.remove(observer)

        return stop
