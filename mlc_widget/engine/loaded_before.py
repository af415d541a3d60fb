"""What was loaded before a load, and may have to make room for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from mlc_widget.api.errors import LoadCancelledError
from mlc_widget.engine.runtimes.base import DeviceUsage


class LoadedBefore:
    """A `ReplacedModels`: what was loaded before a load, and may be unloaded by it.

    Args:
        usages: What it takes of devices.
        unload: Unloads it, on the loop of this object's maker.
    """

    def __init__(
        self, usages: Sequence[DeviceUsage], unload: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        self._usages, self._unload = usages, unload
        self._loop = asyncio.get_running_loop()
        self._unloading: asyncio.Task[None] | None = None
        self._closed = False

    def nbytes(self, device: str) -> int:
        """How much of a device's memory it takes."""
        if self._unloading is not None:
            return 0
        return sum(usage.model or 0 for usage in self._usages if usage.device == device)

    def unload(self) -> None:
        """Unload it; see `ReplacedModels`."""

        async def work() -> None:
            if self._closed:
                raise LoadCancelledError("This load was cancelled.")
            if self._unloading is None:
                self._unloading = asyncio.create_task(self._unload())
            await asyncio.shield(self._unloading)

        asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    async def close(self) -> None:
        """The load has failed: let it unload nothing from now on, and wait for what it began."""
        self._closed = True
        if self._unloading is not None:
            await self._unloading
