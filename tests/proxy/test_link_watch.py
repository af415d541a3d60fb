"""The watch on the way to a worker on another machine, with real sockets and no worker."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
import zmq.asyncio

from mlc_widget.api.errors import EngineDeadError
from mlc_widget.proxy import provisioner_thread
from mlc_widget.proxy.link_watch import LinkWatch
from mlc_widget.proxy.provisioner_thread import ProvisionerThread

from ..waiting import DEADLINE_S, until


@dataclass
class Connection:
    posted: list[str] = field(default_factory=list)
    lost: list[EngineDeadError] = field(default_factory=list)

    def post(self, kind: str) -> None:
        self.posted.append(kind)

    def lose(self, error: EngineDeadError) -> None:
        self.lost.append(error)


class Link:
    """Both ends of a worker's iopub and heartbeat."""

    def __init__(self) -> None:
        self.context = zmq.asyncio.Context()
        self.context.linger = 0
        self.pub = self.context.socket(zmq.PUB)
        self.echo = self.context.socket(zmq.ROUTER)
        self.iopub = self.context.socket(zmq.SUB)
        self.iopub.connect(f"tcp://127.0.0.1:{self.pub.bind_to_random_port('tcp://127.0.0.1')}")
        self.heartbeat = self.context.socket(zmq.REQ)
        port = self.echo.bind_to_random_port("tcp://127.0.0.1")
        self.heartbeat.connect(f"tcp://127.0.0.1:{port}")
        self.connection = Connection()
        self.echoing: asyncio.Task[None] | None = None
        self._watches: list[LinkWatch] = []

    def watch(self, timeout: float) -> Connection:
        watch = LinkWatch(self.connection, self.iopub, self.heartbeat, timeout)  # type: ignore[arg-type]
        self._watches.append(watch)
        return self.connection

    def answer(self) -> None:
        async def answer() -> None:
            while True:
                await self.echo.send_multipart(await self.echo.recv_multipart())

        self.echoing = asyncio.create_task(answer())

    async def close(self) -> None:
        for watch in self._watches * 2:  # idempotent
            watch.close()
        if self.echoing is not None:
            self.echoing.cancel()
            await asyncio.wait({self.echoing})
        self.context.destroy(linger=0)


@pytest_asyncio.fixture
async def link() -> AsyncIterator[Link]:
    one = Link()
    yield one
    await one.close()


async def test_a_worker_that_answers_is_told_that_we_are_there(link: Link) -> None:
    link.answer()
    connection = link.watch(0.04)
    await until(lambda: len(connection.posted) >= 8)  # for longer than the timeout
    assert set(connection.posted) == {"keepAlive"}
    assert connection.lost == []


async def test_silence_is_a_lost_link(link: Link) -> None:
    connection = link.watch(0.1)
    await until(lambda: connection.lost)
    assert "has not answered for 0.1 s (`link_timeout`)" in connection.lost[0].message
    assert len(connection.posted) > 1  # to the end, as it may be only our ears


async def test_a_silence_that_ends_in_time_is_none(link: Link) -> None:
    connection = link.watch(30.0)
    await until(lambda: connection.posted)
    link.answer()
    await until(lambda: link.heartbeat.getsockopt(zmq.EVENTS) & zmq.POLLOUT)
    assert connection.lost == []


async def test_a_connection_that_is_closed_is_a_lost_link(link: Link) -> None:
    link.answer()
    connection = link.watch(60.0)
    link.iopub.subscribe(b"")
    received = asyncio.ensure_future(link.iopub.recv())
    while not received.done():  # it is connected
        await link.pub.send(b"x")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(received), 0.01)
    link.pub.close(linger=0)
    await until(lambda: connection.lost)
    assert "was cut off" in connection.lost[0].message


async def test_an_endless_timeout(link: Link) -> None:
    connection = link.watch(float("inf"))
    await until(lambda: connection.posted)
    assert connection.lost == []


async def test_a_provisioner_that_blocks_holds_nobody_else() -> None:
    thread, free = ProvisionerThread(), threading.Event()

    async def block() -> str:
        return "on time" if free.wait(30) else "too late"

    blocked = asyncio.ensure_future(thread.run(block))
    since = time.monotonic()
    await asyncio.sleep(0.01)
    free.set()
    assert await blocked == "on time"
    assert time.monotonic() - since < 30

    async def fail() -> Any:
        raise ValueError("its own error")

    with pytest.raises(ValueError, match="its own error"):
        await thread.run(fail)
    thread.close()
    thread.close()
    with pytest.raises(asyncio.CancelledError):
        await thread.run(fail)


async def test_a_provisioner_s_thread_goes_on_for_the_next_worker() -> None:
    """What a provisioner has there may be for all its kernels."""

    async def serve() -> tuple[threading.Thread, asyncio.Task[Any]]:
        return threading.current_thread(), asyncio.create_task(asyncio.Event().wait())

    first = ProvisionerThread()
    place, kept = await first.run(serve)
    first.close()
    await until(lambda: first._loop in provisioner_thread._free)
    second = ProvisionerThread()
    assert (await second.run(serve))[0] is place
    assert not kept.done()
    other = ProvisionerThread()
    assert (await other.run(serve))[0] is not place
    for thread in (second, other):
        thread.close()


async def test_who_waits_for_a_provisioner_is_told_of_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    thread, begun = ProvisionerThread(), threading.Event()

    async def look() -> None:
        begun.set()
        await asyncio.Event().wait()

    waiting = [asyncio.ensure_future(thread.run(look)) for _ in range(3)]
    await until(begun.is_set)
    for _ in range(50):  # at any time, also while the thread ends
        thread.close()
    await asyncio.wait(waiting, timeout=DEADLINE_S)
    assert all(one.cancelled() for one in waiting)
    assert caplog.records == []
