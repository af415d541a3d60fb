from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mlc_widget.engine.core import DirectCore
from mlc_widget.protocol.messages import PROTOCOL_VERSION
from mlc_widget.worker.handler import KernelMLCEngineHandler


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
