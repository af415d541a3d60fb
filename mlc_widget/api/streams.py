"""Streams of chunks, from an engine's home loop to the consumer's loop or thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from mlc_widget.api.copies import ENGINES, NotCopyable
from mlc_widget.api.core import ChunkSource
from mlc_widget.api.home_loop import HomeLoop, WaitTimeoutError, to_raise, wait_ticking
from mlc_widget.api.requests import JSONDict

T_co = TypeVar("T_co", covariant=True)
_CAPACITY = 256


class _Pump:
    """The home loop's half of a stream: reads the source, ahead of the consumer within bounds.

    The other half, `StreamBuffer`, belongs to the consumer. The home loop keeps this half alive,
    and it does not refer to the other, so dropping the consumer is noticed, and the working half is
    never garbage-collected.

    The two share no lock: a garbage collection may run a finaliser at any point, and a finaliser
    that waited for a lock could wait for the very thread that it runs on.
    """

    def __init__(self, home: HomeLoop, source: ChunkSource) -> None:
        self._home = home
        self._source = source
        self.buffer: deque[JSONDict] = deque()
        self.ended = False
        """Set after the last chunk was put into the buffer."""
        self.error: BaseException | None = None
        self.wakers: deque[Callable[[], object]] = deque()
        """Each is called once, when there is something new."""
        self._space = asyncio.Event()
        self._reading = home.spawn(self._read())
        self._stopping: asyncio.Task[None] | None = None

    async def _read(self) -> None:
        try:
            async for batch in self._source:
                self._publish(batch)
                while len(self.buffer) >= _CAPACITY:
                    self._space.clear()
                    await self._space.wait()
            self._publish([], ended=True)
        except BaseException as error:  # the consumer raises it
            if isinstance(error, asyncio.CancelledError) and _cancelled():
                raise
            self._publish([], ended=True, error=to_raise(error))
        finally:
            await self._source.aclose()

    def make_space(self) -> None:
        """The consumer has taken chunks."""
        self._space.set()

    async def stop(self) -> None:
        """Stop the source, and wait until it has stopped. Idempotent."""
        if self._stopping is None:
            self._stopping = self._home.spawn(self._stop())
        await asyncio.shield(self._stopping)

    def begin_stop(self) -> None:
        """Stop the source, without waiting."""
        if self._stopping is None:
            self._stopping = self._home.spawn(self._stop())

    async def _stop(self) -> None:
        if not self._reading.done():
            self._reading.cancel()
            await asyncio.wait({self._reading})
        try:
            await self._source.aclose()  # a task that never began has not done it
        finally:
            self._publish([], ended=True)

    def _publish(
        self, batch: list[JSONDict], *, ended: bool = False, error: BaseException | None = None
    ) -> None:
        self.buffer.extend(batch)
        self.error = error or self.error
        self.ended = self.ended or ended
        # Only those that wait now: a reader that comes later looks into the buffer first.
        for _ in range(len(self.wakers)):
            try:
                self.wakers.popleft()()
            except IndexError:  # it no longer waits
                break
            except RuntimeError:  # the consumer's loop is closed: nobody will read on
                self.begin_stop()


class StreamBuffer:
    """A bounded buffer between the home loop, which fills it, and one consumer, who owns this.

    A full buffer holds the source back, so a slow consumer slows its own stream and loses nothing.
    Made on the home loop. Dropping it stops the source as `close` does.
    """

    def __init__(self, home: HomeLoop, source: ChunkSource) -> None:
        self._home = home
        self._pump = _Pump(home, source)

    def _take(self) -> JSONDict | None:
        """The next chunk, or None if there is none yet; raises the end or the error."""
        pump = self._pump
        ended = pump.ended  # read first: what came before the end is in the buffer then
        if not pump.buffer:  # only this consumer takes from it
            if not ended:
                return None
            error, pump.error = pump.error, None
            raise error or EOFError  # an error's cause is the worker's traceback
        chunk = pump.buffer.popleft()
        if len(pump.buffer) == _CAPACITY // 2:
            self._home.call_soon(pump.make_space)
        return chunk

    @contextlib.contextmanager
    def _woken(self, waker: Callable[[], object]) -> Iterator[JSONDict | None]:
        """Have `waker` called once something new may be there; gives the next chunk, if any."""
        wakers = self._pump.wakers
        wakers.append(waker)
        try:
            yield self._take()
        finally:
            if waker in wakers:  # else it was called; the error of `remove` would take longer
                with contextlib.suppress(ValueError):
                    wakers.remove(waker)

    async def get(self) -> JSONDict:
        """Wait for the next chunk on the running loop.

        Raises:
            EOFError: at the end of the stream.
        """
        self._home.check_process()
        chunk = self._take()
        while chunk is None:
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            with self._woken(partial(loop.call_soon_threadsafe, _resolve, waiter)) as chunk:
                if chunk is None:
                    await wait_ticking(waiter)
            # While a chunk is taken there is no waker, as the next chunk would call it in vain.
            chunk = chunk or self._take()
        return chunk

    def get_blocking(self, timeout: float | None = None) -> JSONDict:
        """Wait for the next chunk on the calling thread.

        Raises:
            EOFError: at the end of the stream.
            WaitTimeoutError: none came for `timeout` seconds.
        """
        self._home.check_process()
        deadline = None if timeout is None else time.monotonic() + timeout
        chunk = self._take()
        while chunk is None:
            waiter = threading.Lock()
            waiter.acquire()
            with self._woken(waiter.release) as chunk:
                if chunk is None:
                    left = -1.0 if deadline is None else max(deadline - time.monotonic(), 0.0)
                    if not waiter.acquire(timeout=min(left, threading.TIMEOUT_MAX)):
                        raise WaitTimeoutError
            chunk = chunk or self._take()
        return chunk

    def close(self) -> concurrent.futures.Future[None]:
        """Stop the source, from any thread; the future is done once it has stopped."""
        if self._home.is_forked:  # it goes on in the process that it belongs to
            done: concurrent.futures.Future[None] = concurrent.futures.Future()
            done.set_result(None)
            return done
        return self._home.start(self._pump.stop)

    def leave(self) -> None:
        """Stop the source, from any thread or finaliser, without waiting."""
        if not self._home.is_forked:
            self._home.call_soon(self._pump.begin_stop)

    @property
    def on_home_thread(self) -> bool:
        """Whether the caller runs on the home loop's thread."""
        return self._home.is_current

    def __del__(self) -> None:
        # At the interpreter's exit the home loop's thread runs no more.
        if not sys.is_finalizing() and not self._pump.ended:
            self.leave()


def _cancelled() -> bool:
    """Whether the current task was cancelled, and not only something that it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class _Stream(NotCopyable, Generic[T_co]):
    _instead = ENGINES

    def __init__(self, relay: StreamBuffer, convert: Callable[[JSONDict], Any]) -> None:
        self._relay = relay
        self._convert = convert
        self._closed = False
        """No more chunks will be read; the engine may still be working on the answer."""
        self._released = False
        """The engine has stopped working on the answer."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of an answer: {'closed' if self._closed else 'open'}>"

    def _abandon(self) -> None:
        """Stop it without waiting: from a finaliser, waiting could block the home loop itself."""
        if not self._closed:
            self._closed = True
            self._relay.leave()


class AsyncStream(_Stream[T_co]):
    """Chunks of one answer, for ``async for``.

    Leaving the loop early, `aclose`, cancellation and garbage collection all stop the engine's work
    on this answer within a decode step.
    """

    def __aiter__(self) -> AsyncIterator[T_co]:
        return _AsyncIteration(self)

    async def __anext__(self) -> T_co:
        if self._closed:
            raise StopAsyncIteration
        try:
            chunk = await self._relay.get()
        except EOFError:
            self._closed = self._released = True
            raise StopAsyncIteration from None
        except BaseException:
            self._abandon()
            raise
        return self._convert(chunk)  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """Stop the stream and wait until the engine has stopped working on it. Idempotent."""
        self._closed = True
        if not self._released:
            await wait_ticking(asyncio.wrap_future(self._relay.close()))
            self._released = True

    close = aclose

    async def __aenter__(self) -> AsyncStream[T_co]:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is GeneratorExit:  # in a finaliser, perhaps: nothing can be awaited there
            self._abandon()
        else:
            await self.aclose()


class _AsyncIteration(NotCopyable, AsyncIterator[T_co]):
    """One ``async for`` over a stream: Python drops it on ``break``, which ends the stream."""

    _instead = ENGINES

    def __init__(self, stream: AsyncStream[T_co]) -> None:
        self._stream = stream

    async def __anext__(self) -> T_co:
        return await self._stream.__anext__()

    def __repr__(self) -> str:
        return f"<iterator of {self._stream!r}>"

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self._stream._abandon()


class _Iteration(NotCopyable, Iterator[T_co]):
    """One ``for`` over a stream: Python drops it on ``break``, which ends the stream."""

    _instead = ENGINES

    def __init__(self, stream: Stream[T_co]) -> None:
        self._stream = stream

    def __next__(self) -> T_co:
        return self._stream.__next__()

    def __repr__(self) -> str:
        return f"<iterator of {self._stream!r}>"

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self._stream._abandon()


class Stream(_Stream[T_co]):
    """Chunks of one answer, for a plain ``for``; closing or dropping it stops the engine's work."""

    def __iter__(self) -> Iterator[T_co]:
        return _Iteration(self)

    def __next__(self) -> T_co:
        if self._closed:
            raise StopIteration
        try:
            chunk = self._relay.get_blocking()
        except EOFError:
            self._closed = self._released = True
            raise StopIteration from None
        except BaseException:
            self._abandon()
            raise
        return self._convert(chunk)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Stop the stream and wait until the engine has stopped working on it. Idempotent."""
        self._closed = True
        if not self._released:
            stopped = self._relay.close()
            if not self._relay.on_home_thread:  # it would wait for itself
                stopped.result()
                self._released = True

    def __enter__(self) -> Stream[T_co]:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is GeneratorExit:  # in a finaliser, perhaps: see `_abandon`
            self._abandon()
        else:
            self.close()
