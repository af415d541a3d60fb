"""`EngineLink`: what shows or drives an engine from another thread, beside the engine's interface.

The widgets and the magics use it, and so may a subclass or a widget of your own: ``engine.link``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from mlc_widget.api.core import EngineCore
from mlc_widget.api.errors import MLCEngineError
from mlc_widget.api.progress import InitProgressReport

_T = TypeVar("_T")

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


@runtime_checkable
class EngineLink(EngineCore, Protocol):
    """An engine's core, with what other threads may do.

    `snapshot`, `observe`, `submit` and `call_soon` may be used from any thread; everything else
    runs on the engine's own loop: ``link.submit(link.unload())``.
    """

    @property
    def snapshot(self) -> EngineSnapshot:
        """The engine now."""

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Have `observer` called on the engine's loop with each new snapshot; returns the undo."""

    def submit(self, coroutine: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Run a coroutine on the engine's loop."""

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function on the engine's loop."""

    def cancel_load(self) -> None:
        """End a load that runs; whoever awaits it gets `LoadCancelledError`."""

    async def reload_last(self) -> None:
        """Load again what `reload` was last asked for, with its `chat_opts`."""

    async def restart(self) -> None:
        """End the worker, whatever it does, and load the same models in another.

        What it works on goes on there, as after a death; under ``recovery="error"`` it fails.
        """
