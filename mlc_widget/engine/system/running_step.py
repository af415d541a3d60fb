"""The step that a thread of the engine is executing, for reports of hangs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunningStep:
    """The current step of a runtime's thread.

    Attributes:
        number: Changes with each step.
        seconds: How long the step has been running.
        usual_s: The length of the longest step before it, in seconds; None for the first.
    """

    number: int
    seconds: float
    usual_s: float | None
