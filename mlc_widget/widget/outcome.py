"""How a reply ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from mlc_widget.api.errors import InternalEngineError, MLCEngineError
from mlc_widget.api.requests import JSONDict
from mlc_widget.widget.state import Status


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reply ended."""

    status: Status
    finish: str = ""
    usage: JSONDict = field(default_factory=dict)
    error: MLCEngineError | None = None


def outcome_of(task: asyncio.Task[Outcome]) -> Outcome:
    """The outcome of the task that made a reply, also if it raised."""
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, MLCEngineError):
        return Outcome("error", error=error)
    # A bug here or below; it must not leave the chat waiting forever.
    internal = InternalEngineError(f"{type(error).__name__}: {error}")
    internal.__cause__ = error
    return Outcome("error", error=internal)
