"""However a stream was left, `close` returns when the engine has stopped working on it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.streams import AsyncStream, Stream, StreamBuffer

from ..waiting import until

DEADLINE = 60.0


class Source:
    """An endless answer, which its engine stops only when the test allows it."""

    def __init__(self) -> None:
        self.chunks = 0
        self.most: int | None = None
        self.fails = False
        self.asked_to_stop = threading.Event()
        self.may_let_go = asyncio.Event()
        self.let_go = False

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> list[dict[str, Any]]:
        if self.chunks == self.most:
            await asyncio.Event().wait()
        if self.fails:
            raise ValueError("the engine failed")
        self.chunks += 1
        return [{"number": self.chunks}]

    async def aclose(self) -> None:
        self.asked_to_stop.set()
        await self.may_let_go.wait()
        self.let_go = True


@pytest.fixture
def home() -> HomeLoop:
    return HomeLoop.shared()


@pytest.fixture
def source() -> Source:
    return Source()


def buffer(home: HomeLoop, source: Source) -> StreamBuffer:
    async def make() -> StreamBuffer:
        return StreamBuffer(home, source)

    return home.submit(make()).result(DEADLINE)


async def by_break(stream: AsyncStream[Any]) -> None:
    async for _ in stream:
        break


async def by_an_error_in_the_loop(stream: AsyncStream[Any]) -> None:
    with contextlib.suppress(KeyError):
        async for _ in stream:
            raise KeyError


async def by_cancelling_the_reader(stream: AsyncStream[Any]) -> None:
    await anext(stream)

    async def read() -> None:
        async for _ in stream:
            pass

    reader = asyncio.create_task(read())
    await asyncio.sleep(0)  # it waits for a chunk
    reader.cancel()
    await asyncio.wait({reader})


async def by_a_dropped_generator(stream: AsyncStream[Any]) -> None:
    async def relayed() -> Any:
        async for chunk in stream:
            yield chunk

    async for _ in (generator := relayed()):
        break
    await generator.aclose()


async def by_nothing(stream: AsyncStream[Any]) -> None:
    pass


LEAVING: list[Callable[[AsyncStream[Any]], Awaitable[None]]] = [
    by_break,
    by_an_error_in_the_loop,
    by_cancelling_the_reader,
    by_a_dropped_generator,
    by_nothing,
]


@pytest.mark.parametrize("leave", LEAVING, ids=lambda f: f.__name__)
async def test_close_waits_for_the_engine(
    home: HomeLoop, source: Source, leave: Callable[[AsyncStream[Any]], Awaitable[None]]
) -> None:
    source.most = 1 if leave is by_cancelling_the_reader else None
    stream = AsyncStream(buffer(home, source), lambda chunk: chunk)
    await leave(stream)
    closing = asyncio.create_task(stream.aclose())
    assert await asyncio.to_thread(source.asked_to_stop.wait, DEADLINE)
    await asyncio.sleep(0)
    assert not closing.done()
    home.call_soon(source.may_let_go.set)
    async with asyncio.timeout(DEADLINE):
        await closing
    assert source.let_go
    await stream.aclose()  # again: nothing is left to wait for


async def test_leaving_the_block_after_a_break_waits_too(home: HomeLoop, source: Source) -> None:
    home.call_soon(source.may_let_go.set)
    async with AsyncStream(buffer(home, source), lambda chunk: chunk) as stream:
        async for _ in stream:
            break
    assert source.let_go


@pytest.mark.parametrize("error", [False, True], ids=["break", "error"])
def test_a_blocking_stream_waits_too(home: HomeLoop, source: Source, error: bool) -> None:
    stream = Stream(buffer(home, source), lambda chunk: chunk)
    with contextlib.suppress(KeyError):
        for _ in stream:
            if error:
                raise KeyError
            break
    assert source.asked_to_stop.wait(DEADLINE)
    assert not source.let_go
    home.call_soon(source.may_let_go.set)
    stream.close()
    assert source.let_go


def test_a_blocking_stream_whose_engine_failed_can_be_closed(
    home: HomeLoop, source: Source
) -> None:
    source.fails = True
    home.call_soon(source.may_let_go.set)
    stream = Stream(buffer(home, source), lambda chunk: chunk)
    with pytest.raises(ValueError, match="the engine failed"):
        list(stream)
    stream.close()
    assert source.let_go
    assert list(stream) == []


async def test_a_chunk_wakes_once_whoever_begins_to_wait_for_the_next(
    home: HomeLoop, source: Source
) -> None:
    """A reader that takes the chunk while others are woken waits for the next one."""
    source.most = 0
    pump = buffer(home, source)._pump
    woken = 0

    def wait_again() -> None:
        nonlocal woken
        woken += 1
        if woken < 100:
            pump.wakers.append(wait_again)

    async def publish() -> None:
        pump.wakers.append(wait_again)
        for number in range(3):
            pump._publish([{"number": number}])

    await asyncio.wrap_future(home.submit(publish()))
    assert woken == 3
    home.call_soon(source.may_let_go.set)
    await asyncio.wrap_future(home.start(pump.stop))


@pytest.mark.parametrize("blocking", [False, True], ids=["awaited", "blocking"])
async def test_a_reader_that_waits_is_woken_and_leaves_no_waker(
    home: HomeLoop, source: Source, blocking: bool
) -> None:
    source.most = 0
    stream = buffer(home, source)
    pump = stream._pump
    get = asyncio.to_thread(stream.get_blocking) if blocking else stream.get()
    reading = asyncio.ensure_future(get)
    await until(lambda: pump.wakers)
    home.call_soon(pump._publish, [{"number": 1}, {"number": 2}])
    assert await reading == {"number": 1}
    assert not pump.wakers
    assert await stream.get() == {"number": 2}
    home.call_soon(source.may_let_go.set)
    await asyncio.wrap_future(stream.close())
