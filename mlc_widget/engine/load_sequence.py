"""Runs loads and unloads one at a time; the newest wins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from mlc_widget.api.errors import LoadCancelledError

_T = TypeVar("_T")


class LoadSequence:
    """Runs loads and unloads one at a time; a newer one cancels an older one that is running."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._epoch = 0
        self._waiting = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether any work has begun or waits."""
        return self._lock.locked()

    async def idle(self) -> None:
        """Wait until the work that is running has ended, and whatever waited for it."""
        while self._lock.locked() or self._waiting:
            async with self._lock:  # whatever waits longer goes first, but others may wait, too
                pass

    @property
    def superseded(self) -> bool:
        """Whether newer work waits for the one that is running."""
        return self._waiting > 0

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `work` once the previous work has been cancelled and has cleaned up.

        Cancelling the caller cancels the work.

        Raises:
            LoadCancelledError: Newer work cancelled it, perhaps even before it began.
        """
        self._epoch += 1
        epoch = self._epoch
        if self._task is not None:
            self._task.cancel()
        self._waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1
        try:
            if epoch != self._epoch:
                raise _superseded()
            self._task = asyncio.create_task(work())
            try:
                await self._task
            except asyncio.CancelledError:
                if epoch != self._epoch and not _cancelling():
                    raise _superseded() from None
                raise
            finally:
                self._task = None
        finally:
            self._lock.release()


def _superseded() -> LoadCancelledError:
    return LoadCancelledError(
        "This load was cancelled, or a newer reload, unload or terminate took its place."
    )


def _cancelling() -> bool:
    current = asyncio.current_task()
    return current is not None and current.cancelling() > 0


async def uncancelled(work: Awaitable[_T]) -> _T:
    """Run `work` to its end even if the caller is cancelled; the cancellation takes effect then.

    This is for freeing memory, which must not stop halfway.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # the caller gets the cancellation instead
        raise cancelled
    return task.result()
