"""Holds an engine's current snapshot and notifies its observers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mlc_widget.api.engine_link import EngineSnapshot, Observer

logger = logging.getLogger(__name__)


class SnapshotPublisher:
    """Holds the current snapshot, which any thread may read; changed on the home loop only."""

    def __init__(self) -> None:
        self.snapshot = EngineSnapshot()
        self._observers: list[Observer] = []

    def update(self, **changes: Any) -> None:
        """Replace fields of the snapshot and notify the observers."""
        self.snapshot = replace(self.snapshot, **changes)
        for observer in list(self._observers):
            try:
                observer(self.snapshot)
            except Exception:  # whoever watches must not break what it watches
                logger.exception("an observer of the engine's state failed")

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer` with each new snapshot; returns what ends that."""
        self._observers.append(observer)

        def stop() -> None:
            with contextlib.suppress(ValueError):
                self._observers.remove(observer)

        return stop
