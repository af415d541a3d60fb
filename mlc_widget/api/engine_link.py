"""`EngineLink`: observe and control an engine from any thread.

The widgets and the magics use it, and so may a subclass or a widget of your own: ``engine.link``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from mlc_widget.api.core import ChatOpts, EngineCore
from mlc_widget.api.errors import MLCEngineError
from mlc_widget.api.progress import InitProgressReport

_T = TypeVar("_T")

EngineState: TypeAlias = Literal["idle", "starting", "loading", "ready", "dead", "terminated"]
HangingPart: TypeAlias = Literal["worker", "engine"]


@dataclass(frozen=True, slots=True)
class Hang:
    """The worker or the engine has not responded for unusually long; it may still recover.

    Attributes:
        part: ``worker`` if the worker answers nothing; ``engine`` if the worker answers, but a
            model has been at the same step for all that time.
        since: When it last responded, by `time.monotonic`.
    """

    part: HangingPart
    since: float

    @property
    def seconds(self) -> float:
        """Seconds since it last responded."""
        return time.monotonic() - self.since

    @property
    def message(self) -> str:
        """A sentence for people."""
        what = "worker has not answered" if self.part == "worker" else "engine has made no progress"
        return f"The {what} for {self.seconds:.0f} s; it may be hung."


@dataclass(frozen=True, slots=True)
class FailedLoad:
    """A load that failed and left the engine with the model that it had.

    Attributes:
        model_id: The model that was to be loaded; several are joined by commas.
        error: Why it was not.
    """

    model_id: str
    error: MLCEngineError


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """An engine's state at one moment. It never changes; a new one replaces it at each change.

    Attributes:
        state: ``idle`` means that no model is loaded, with or without a worker; ``dead`` means
            that the next use starts a new worker.
        models: The models that are loaded or loading. While some are loading, those that were
            loaded before go on answering.
        progress: The last report of the load that runs, or of the last one.
        error: Why the last load failed, or the worker died.
        device: What the model runs on, where known.
        failed: The last load, if it failed and the model that was loaded before it stays. `state`
            and `models` are then that model's, as if the load had never been asked for.
        hang: Set while the worker seems to hang; `state` does not change then.
    """

    state: EngineState = "idle"
    models: tuple[str, ...] = ()
    progress: InitProgressReport | None = None
    error: MLCEngineError | None = None
    device: str | None = None
    hang: Hang | None = None
    failed: FailedLoad | None = None

    @property
    def model_id(self) -> str | None:
        """The models, joined by commas; None if there are none."""
        return ", ".join(self.models) or None


Observer: TypeAlias = Callable[[EngineSnapshot], object]


@runtime_checkable
class EngineLink(EngineCore, Protocol):
    """An engine's core, with the calls that other threads may make.

    `snapshot`, `observe`, `submit` and `call_soon` may be used from any thread; everything else
    runs on the engine's own loop: ``link.submit(link.unload())``.
    """

    @property
    def snapshot(self) -> EngineSnapshot:
        """The engine now."""

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer` on the engine's loop with each new snapshot; returns how to stop it."""

    def submit(self, coroutine: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Run a coroutine on the engine's loop."""

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function on the engine's loop."""

    def make_another(self) -> object:
        """Make another engine with the same options, without a model; from any thread.

        It ends when nothing refers to it any more, as every engine does.
        """

    def cancel_load(self) -> None:
        """Cancel the load that is running, if any; awaiting it raises `LoadCancelledError`."""

    def begin_reload(
        self, model_ids: Sequence[str], chat_opts: Sequence[ChatOpts | None] | None = None
    ) -> None:
        """Begin a `reload` without awaiting it; requests made meanwhile wait for it.

        Raises:
            BadRequestError: The arguments are invalid.
            EngineTerminatedError: after `terminate`.
        """

    async def reload_last(self) -> None:
        """Repeat the last `reload`, with the same models and `chat_opts`."""

    async def restart(self) -> None:
        """Kill the worker, even if it hangs, and load the same models in a new one.

        Running requests continue there, as after a crash; with ``recovery="error"`` they fail.
        """
