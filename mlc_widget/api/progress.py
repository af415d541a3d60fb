"""The progress reports of a load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

InitPhase: TypeAlias = Literal[
    "resolve", "download", "convert", "verify", "compile", "load", "warm up"
]


@dataclass(frozen=True, slots=True)
class InitProgressReport:
    """One report on a model's load; WebLLM's three fields first, ours after them.

    Attributes:
        progress: How much of the whole load is done, from 0 to 1; it never decreases.
        time_elapsed: Seconds since the load began.
        text: A sentence for people.
        phase: What is being done now.
        model_id: The model being loaded.
        bytes_done: Bytes processed so far in this phase, if it counts bytes.
        bytes_total: Bytes that this phase will process, if known.
        bytes_per_s: Bytes per second in this phase.
        eta_s: Estimated seconds to the end of this phase.
        warning: What the loaded models cannot do, for people; only in a load's last reports.
    """

    progress: float
    time_elapsed: float
    text: str
    phase: InitPhase = "load"
    model_id: str = ""
    bytes_done: int | None = None
    bytes_total: int | None = None
    bytes_per_s: float | None = None
    eta_s: float | None = None
    warning: str = ""


InitProgressCallback: TypeAlias = Callable[[InitProgressReport], None]


class LoadReporter(Protocol):
    """Called by a runtime, from any thread, as a load advances."""

    def __call__(
        self,
        phase: InitPhase,
        fraction: float,
        text: str,
        *,
        bytes_done: int | None = None,
        bytes_total: int | None = None,
    ) -> None:
        """Report that `fraction` (0 to 1) of `phase` is done."""
