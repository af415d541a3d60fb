"""A thread for a kernel provisioner, whose calls may block while they wait for another machine."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

_T = TypeVar("_T")
_free: Final[list[asyncio.AbstractEventLoop]] = []
"""The event loops of threads that no worker uses. They go on: a provisioner may keep there what all
its kernels share, as gateway-provisioners receives the answers of all its launchers."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free.clear)  # the threads are the parent's


class ProvisionerThread:
    """Makes calls on an event loop of its own, one thread per worker.

    On the home loop, an ``ssh`` that waits for a host that is down would hold all engines.
    """

    def __init__(self) -> None:
        try:
            self._loop = _free.pop()
        except IndexError:
            self._loop = _started()
        self._calls: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._freeing: asyncio.Task[None] | None = None

    def submit(self, call: Callable[[], Awaitable[_T]]) -> concurrent.futures.Future[_T]:
        """Make a call there; it is cancelled where the thread was closed."""

        async def made() -> _T:
            task = asyncio.current_task()
            assert task is not None
            if self._closed:
                raise asyncio.CancelledError
            self._calls.add(task)
            try:
                return await call()
            finally:
                self._calls.discard(task)

        return asyncio.run_coroutine_threadsafe(made(), self._loop)

    async def run(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Make a call there, and wait for it here; cancelling the wait cancels it."""
        return await asyncio.wrap_future(self.submit(call))

    def close(self) -> None:
        """Cancel the calls that wait, and leave the thread to the next worker. Idempotent.

        Nothing can be run after that.
        """
        if not self._closed:
            self._closed = True
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        for call in self._calls:
            call.cancel()
        self._freeing = self._loop.create_task(self._free())

    async def _free(self) -> None:
        if self._calls:
            await asyncio.wait(self._calls)
        _free.append(self._loop)


def _started() -> asyncio.AbstractEventLoop:
    loop = asyncio.SelectorEventLoop()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()

    threading.Thread(target=serve, name="mlc_widget-provisioner", daemon=True).start()
    return loop
