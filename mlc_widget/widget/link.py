"""What the widgets need of an engine, and how they get it from one."""

from __future__ import annotations

import concurrent.futures
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar, cast

from mlc_widget.api.core import RequestKind
from mlc_widget.api.errors import MLCEngineError
from mlc_widget.api.progress import InitProgressReport
from mlc_widget.api.requests import JSONDict

_T = TypeVar("_T")


class Hang(Protocol):
    """That something has given no sign of life for long."""

    @property
    def part(self) -> str:
        """``worker`` or ``engine``."""

    @property
    def seconds(self) -> float:
        """For how long, by now."""


class Snapshot(Protocol):
    """An engine at one moment."""

    @property
    def state(self) -> str:
        """``idle``, ``starting``, ``loading``, ``ready``, ``dead`` or ``terminated``."""

    @property
    def model_id(self) -> str | None:
        """The model that is loaded, or being loaded."""

    @property
    def progress(self) -> InitProgressReport | None:
        """The latest report on a load."""

    @property
    def error(self) -> MLCEngineError | None:
        """Why the last load, or the worker, failed."""

    @property
    def device(self) -> str | None:
        """What computes."""

    @property
    def hang(self) -> Hang | None:
        """How the worker seems to hang, if it does."""


class EngineLink(Protocol):
    """The proxy's core, as the widgets see it; see `mlc_widget.proxy`."""

    @property
    def snapshot(self) -> Snapshot:
        """The engine now; may be read on any thread."""

    def observe(self, callback: Callable[[Any], object]) -> Callable[[], object]:
        """Call back on the I/O thread with each new snapshot; returns what ends that."""

    def submit(self, coro: Coroutine[Any, Any, _T], /) -> concurrent.futures.Future[_T]:
        """Run a coroutine on the I/O thread."""

    def call_soon(self, function: Callable[..., object], /, *args: Any) -> None:
        """Call a function on the I/O thread."""

    async def open_stream(
        self, kind: RequestKind, request: JSONDict
    ) -> AsyncGenerator[list[JSONDict], None]:
        """Start a streaming request on the I/O thread; closing the generator stops the engine."""

    def cancel_load(self) -> object:
        """End the load that is running, if one is."""

    async def reload(self, model_ids: Sequence[str]) -> object:
        """Load these models in place of what is loaded; on the I/O thread."""

    async def reload_last(self) -> object:
        """Load again what was last asked for, with its `chat_opts`; on the I/O thread."""

    async def restart(self) -> object:
        """End the worker and load the same models in another; on the I/O thread."""

    async def list_models(self) -> list[JSONDict]:
        """The loaded models, with their `context_window_size`; on the I/O thread."""

    async def device_info(self) -> JSONDict:
        """Of the worker: `runtime`, `memory_used_bytes` and more; on the I/O thread."""


_NEEDED = (
    *("snapshot", "observe", "submit", "call_soon", "open_stream", "cancel_load"),
    *("reload", "reload_last", "restart", "list_models", "device_info"),
)


def link_of(engine: object) -> EngineLink:
    """The link of a kernel engine, blocking or awaited; a core is its own link.

    Raises:
        TypeError: for anything else, with what to pass.
    """
    core = getattr(engine, "_core", engine)
    if not all(hasattr(core, name) for name in _NEEDED):
        raise TypeError(
            f"a widget shows an engine that computes in a worker kernel, not {engine!r}: "
            "make one with `engine = await create_kernel_mlc_engine(…)`"
        )
    return cast("EngineLink", core)
