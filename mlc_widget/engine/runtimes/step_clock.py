"""How long the steps of a thread take, for others to read while it may hang."""

from __future__ import annotations

import time

from mlc_widget.engine.system.running_step import RunningStep


class StepClock:
    """Times the steps of one thread: ``with clock: step()``. `running` is for any thread."""

    def __init__(self) -> None:
        self._number = 0
        self._longest: float | None = None
        self._began: tuple[int, float] | None = None  # one value, so that no reader gets half

    def __enter__(self) -> None:
        self._number += 1
        self._began = (self._number, time.monotonic())

    def __exit__(self, *_: object) -> None:
        assert self._began is not None
        took = time.monotonic() - self._began[1]
        self._began = None
        self._longest = max(took, self._longest or 0.0)

    def running(self) -> RunningStep | None:
        """The step that runs, if one does."""
        began = self._began
        if began is None:
            return None
        return RunningStep(began[0], time.monotonic() - began[1], self._longest)
