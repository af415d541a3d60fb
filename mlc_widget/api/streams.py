"""Streams of chunks, carried from an engine's home loop to the consumer's loop or thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from mlc_widget.api.core import ChunkSource
from mlc_widget.api.home_loop import HomeLoop, to_raise, wait_ticking
from mlc_widget.api.requests import JSONDict

T_co = TypeVar("T_co", covariant=True)
_CAPACITY = 256


class StreamBuffer:
    """A bounded buffer between the home loop, which fills it, and one consumer.

    A full buffer holds the source back, so a slow consumer slows its own stream and loses nothing.
    Made on the home loop.
    """

    def __init__(self, home: HomeLoop, source: ChunkSource) -> None:
        self._home = home
        self._source = source
        self._changed = threading.Condition()
        self._buffer: deque[JSONDict] = deque()
        self._ended = False
        self._error: BaseException | None = None
        self._wake: Callable[[], object] | None = None  # set while an async consumer waits
        self._space = asyncio.Event()  # belongs to the home loop
        self._pump = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        try:
            async for batch in self._source:
                self._publish(batch)
                while len(self._buffer) >= _CAPACITY:
                    self._space.clear()
                    await self._space.wait()
            self._publish([], ended=True)
        except Exception as error:  # the consumer raises it
            self._publish([], ended=True, error=to_raise(error))
        finally:
            await self._source.aclose()

    async def _stop(self) -> None:
        if not self._pump.done():
            self._pump.cancel()
            await asyncio.wait({self._pump})
        await self._source.aclose()  # a pump that never began has not done it
        self._publish([], ended=True)

    def _publish(
        self, batch: list[JSONDict], *, ended: bool = False, error: BaseException | None = None
    ) -> None:
        with self._changed:
            self._buffer.extend(batch)
            self._ended, self._error = self._ended or ended, error or self._error
            wake, self._wake = self._wake, None
            self._changed.notify_all()
        if wake is not None:
            try:
                wake()
            except RuntimeError:  # the consumer's loop is closed: nobody will read on
                self.close()

    def _take(self) -> JSONDict | None:
        """The next chunk, or None if there is none yet; raises the end or the error."""
        if self._buffer:
            chunk = self._buffer.popleft()
            if len(self._buffer) == _CAPACITY // 2:
                self._home.call_soon(self._space.set)
            return chunk
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._ended:
            raise EOFError
        return None

    async def get(self) -> JSONDict:
        """Wait for the next chunk on the running loop.

        Raises:
            EOFError: at the end of the stream.
        """
        while True:
            with self._changed:
                chunk = self._take()
                if chunk is not None:
                    return chunk
                loop = asyncio.get_running_loop()
                waiter: asyncio.Future[None] = loop.create_future()
                self._wake = partial(loop.call_soon_threadsafe, _resolve, waiter)
            await wait_ticking(waiter)

    def get_blocking(self) -> JSONDict:
        """Wait for the next chunk on the calling thread.

        Raises:
            EOFError: at the end of the stream.
        """
        with self._changed:
            while True:
                chunk = self._take()
                if chunk is not None:
                    return chunk
                self._changed.wait()

    def close(self) -> concurrent.futures.Future[None]:
        """Stop the source, from any thread; the future is done once it has stopped."""
        return self._home.submit(self._stop())


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class _Stream(Generic[T_co]):
    def __init__(self, relay: StreamBuffer, convert: Callable[[JSONDict], Any]) -> None:
        self._relay = relay
        self._convert = convert
        self._closed = False

    def _abandon(self) -> None:
        if not self._closed:
            self._closed = True
            self._relay.close()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self._abandon()


class AsyncStream(_Stream[T_co]):
    """Chunks of one answer, for ``async for``.

    Leaving the loop early, `aclose`, cancellation and garbage collection all stop the engine's work
    on this answer within a decode step.
    """

    def __aiter__(self) -> AsyncIterator[T_co]:
        return _Iteration(self)

    async def __anext__(self) -> T_co:
        if self._closed:
            raise StopAsyncIteration
        try:
            chunk = await self._relay.get()
        except EOFError:
            self._closed = True
            raise StopAsyncIteration from None
        except BaseException:
            self._abandon()
            raise
        return self._convert(chunk)  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """Stop the stream and wait until the engine has let go of it. Idempotent."""
        if not self._closed:
            self._closed = True
            await wait_ticking(asyncio.wrap_future(self._relay.close()))

    close = aclose

    async def __aenter__(self) -> AsyncStream[T_co]:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class _Iteration(AsyncIterator[T_co]):
    """One ``async for`` over a stream: Python drops it on ``break``, which ends the stream."""

    def __init__(self, stream: AsyncStream[T_co]) -> None:
        self._stream = stream

    async def __anext__(self) -> T_co:
        return await self._stream.__anext__()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self._stream._abandon()


class Stream(_Stream[T_co]):
    """Chunks of one answer, for a plain ``for``; closing or dropping it stops the engine's work."""

    def __iter__(self) -> Iterator[T_co]:
        try:
            while True:
                yield self.__next__()
        except StopIteration:
            return
        finally:
            self.close()

    def __next__(self) -> T_co:
        if self._closed:
            raise StopIteration
        try:
            chunk = self._relay.get_blocking()
        except EOFError:
            self._closed = True
            raise StopIteration from None
        except BaseException:
            self._abandon()
            raise
        return self._convert(chunk)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Stop the stream and wait until the engine has let go of it. Idempotent."""
        if not self._closed:
            self._closed = True
            self._relay.close().result()

    def __enter__(self) -> Stream[T_co]:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
