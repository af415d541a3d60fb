from __future__ import annotations

import asyncio
import itertools
import math
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mlc_widget.engine.core import DirectCore
from mlc_widget.protocol.messages import PROTOCOL_VERSION
from mlc_widget.protocol.worker_record import WorkerRecord, WorkerRecords
from mlc_widget.protocol.worker_settings import Sharing, WorkerSettings
from mlc_widget.worker import shared_worker
from mlc_widget.worker.handler import KernelMLCEngineHandler
from mlc_widget.worker.shared_worker import SharedWorker

from ..waiting import until


class Client:
    """A client of a handler in this process, which posts messages and keeps the answers."""

    def __init__(self, core: DirectCore, handler: type[KernelMLCEngineHandler]) -> None:
        self.down: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        self._uuids = itertools.count()
        self.handler = handler(core, self._receive)

    def _receive(self, message: dict[str, Any]) -> None:
        self.down.append(message)
        self._changed.set()

    def post(self, kind: Any, content: Any = None, **more: Any) -> str:
        uuid = f"u{next(self._uuids)}"
        self.handler.on_message({"kind": kind, "uuid": uuid, "content": content, **more})
        return uuid

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for the first message that satisfies a condition, among past and future ones."""
        async with asyncio.timeout(30):
            while True:
                for message in self.down:
                    if condition(message):
                        return message
                self._changed.clear()
                await self._changed.wait()

    async def call(self, kind: str, content: Any = None) -> dict[str, Any]:
        """Post a message and wait for its answer."""
        uuid = self.post(kind, content)
        return await self.until(lambda m: m["uuid"] == uuid and m["kind"] in ("return", "throw"))

    async def hello(self) -> None:
        assert (await self.call("hello", {"protocol": PROTOCOL_VERSION}))["kind"] == "return"


@pytest_asyncio.fixture
async def core(tiny_model: Path) -> AsyncIterator[DirectCore]:
    """A core with the scripted runtime, and the tiny model loaded."""
    core = DirectCore(runtime="scripted", runtime_options={"text": "one two three", "repeat": 1000})
    core.set_init_progress_callback(lambda report: None)
    await core.reload([str(tiny_model)])
    yield core
    await core.terminate()


@pytest_asyncio.fixture
async def connect(
    core: DirectCore,
) -> AsyncIterator[Callable[..., Client]]:
    """Connects clients to the core, and closes them."""
    clients: list[Client] = []

    def make(handler: type[KernelMLCEngineHandler] = KernelMLCEngineHandler) -> Client:
        client = Client(core, handler)
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.handler.close()


@pytest.fixture
def client(connect: Callable[..., Client]) -> Client:
    """One client."""
    return connect()


class Bench:
    """A shared worker in this process, with its record."""

    def __init__(
        self,
        records: WorkerRecords,
        fd: int,
        idle_timeout: float,
        runtime_dir: Path | None,
        script: dict[str, Any],
    ) -> None:
        self.records, self.ended = records, 0
        path = records.path("one")
        sharing = Sharing("one", str(path), fd, idle_timeout, math.inf)
        settings = WorkerSettings(
            runtime="scripted",
            runtime_options=script,
            runtime_dir=None if runtime_dir is None else str(runtime_dir),
            sharing=sharing,
        )
        self.worker = SharedWorker(settings, sharing, {})
        self.leave: list[Callable[[], None]] = []

    def client(self, kind: type[Client] = Client) -> Client:
        core = self.worker.new_core()
        client = kind(core, KernelMLCEngineHandler)
        self.leave.append(self.worker.join(core, client.handler))
        return client

    @property
    def clients(self) -> list[dict[str, Any]]:
        return list(self.worker.info()["clients"])


@pytest.fixture
async def make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Bench]]:
    records = WorkerRecords(tmp_path / "records")
    monkeypatch.setattr(shared_worker, "_FAREWELL_S", 0.0)
    with records.locked("one"), records.new("one") as new:
        new.publish(WorkerRecord("one", 2, "1", 0.0, {}, {}, "/nowhere", 1.0, 1.0)).close()
    lock = os.open(records.path("one"), os.O_RDONLY)
    benches = []

    def make(
        idle_timeout: float = math.inf, runtime_dir: Path | None = None, **script: Any
    ) -> Bench:
        script = script or {"text": "a b c", "hang_after": 1}
        bench = Bench(records, lock, idle_timeout, runtime_dir, script)

        def end() -> None:
            bench.ended += 1

        monkeypatch.setattr(bench.worker, "_end", end)
        benches.append(bench)
        return bench

    yield make
    for bench in benches:
        for leave in bench.leave:
            leave()
        await until(lambda bench=bench: not bench.worker._tasks)
    os.close(lock)


async def hello(client: Client, who: Any) -> dict[str, Any]:
    return await client.call("hello", {"protocol": PROTOCOL_VERSION, "client": who})
