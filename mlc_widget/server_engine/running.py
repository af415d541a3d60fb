"""The requests that a server is answering, and how they are interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from mlc_widget.api.errors import EngineTerminatedError
from mlc_widget.api.requests import JSONDict
from mlc_widget.server_engine.connection import EventStream
from mlc_widget.server_engine.exchange import Exchange

_T = TypeVar("_T")


class Running:
    """A request that is being answered. Ending its work closes its connection."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.aborted = False
        self.terminated: str | None = None
        self._work: asyncio.Future[Any] | None = None

    async def wait(self, work: Awaitable[_T]) -> _T | None:
        """Await work; None if the request is interrupted meanwhile, or was before.

        Raises:
            EngineTerminatedError: The engine has ended meanwhile.
        """
        task = asyncio.ensure_future(work)
        self._work = task
        if self.aborted:
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            if not task.cancelled() or not self.aborted:
                raise
            if self.terminated is not None:
                raise EngineTerminatedError(self.terminated) from None
            return None

    def abort(self, terminated: str | None = None) -> None:
        """Interrupt it; with a reason if the engine ends."""
        self.aborted, self.terminated = True, terminated
        if self._work is not None:
            self._work.cancel()


class ServerStream:
    """The batches of a streamed answer; a `ChunkSource`.

    Args:
        running: The request.
        events: What the server sends; None if the request was interrupted before it was accepted.
        ended: Called once, when nothing more will be read.
        noting_failure: Makes a context that logs the error with which it ends.
    """

    def __init__(
        self,
        running: Running,
        events: EventStream | None,
        ended: Callable[[Running], object],
        noting_failure: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._running = running
        self._events = events
        self._ended = ended
        self._noting_failure = noting_failure
        self._done = False

    def __aiter__(self) -> AsyncIterator[list[JSONDict]]:
        return self

    async def __anext__(self) -> list[JSONDict]:
        while not self._done:
            with self._noting_failure():
                batch = await self._next()
            if batch:
                return batch
        raise StopAsyncIteration

    async def _next(self) -> list[JSONDict]:
        exchange = self._running.exchange
        try:
            event = None
            if self._events is not None:
                event = await self._running.wait(self._events.next())
            if event is not None:
                return exchange.chunks(event)
            batch = self._last_batch()
        except BaseException:
            await self.aclose()
            raise
        await self.aclose()
        return batch

    def _last_batch(self) -> list[JSONDict]:
        exchange = self._running.exchange
        if self._running.aborted or self._events is None:
            return exchange.aborted_chunks()
        if not self._events.marked_end and not exchange.finished:
            raise self._events.lost()
        return exchange.last_chunks()

    async def aclose(self) -> None:
        """Close the connection. Idempotent."""
        if not self._done:
            self._done = True
            self._ended(self._running)
            if self._events is not None:
                await self._events.aclose()
