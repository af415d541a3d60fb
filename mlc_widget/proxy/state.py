"""What is known of a kernel engine at one moment, for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from mlc_widget.api.errors import MLCEngineError
from mlc_widget.api.progress import InitProgressReport

EngineState: TypeAlias = Literal["idle", "starting", "loading", "ready", "dead", "terminated"]


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """An immutable view; a new one is made at each change.

    Attributes:
        state: ``idle`` has a worker or none, and no model; ``dead`` restarts on next use.
        model_id: The model that is loaded or loading; several are joined by commas.
        progress: The last report of the load that runs, or of the last one.
        error: Why the last load failed, or the worker died.
        device: What the model runs on, where known.
    """

    state: EngineState = "idle"
    model_id: str | None = None
    progress: InitProgressReport | None = None
    error: MLCEngineError | None = None
    device: str | None = None
