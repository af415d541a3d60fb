from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest_asyncio

from mlc_widget import AsyncServerMLCEngine

from .stand_in import StandIn


@pytest_asyncio.fixture
async def stand_in() -> AsyncIterator[StandIn]:
    async with StandIn().running() as server:
        yield server


@pytest_asyncio.fixture
async def engine_on() -> AsyncIterator[Callable[..., Awaitable[AsyncServerMLCEngine]]]:
    """Makes engines on a server, with its only model, and terminates them."""
    engines = []

    async def make(url: str, *, load: bool = True, **options: Any) -> AsyncServerMLCEngine:
        engine = AsyncServerMLCEngine(url, **options)
        engines.append(engine)
        if load:
            await engine.reload()
        return engine

    yield make
    for engine in engines:
        await engine.terminate()
