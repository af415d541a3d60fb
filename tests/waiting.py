"""How tests wait: for a state. Deadlines only catch hangs."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psutil

DEADLINE_S: Final = 60.0
_LOOK_AGAIN_S: Final = 0.005


async def until(condition: Callable[[], Any] | Callable[[], Awaitable[Any]]) -> Any:
    """Wait until a condition, called or awaited, is true; returns what it gave."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(_LOOK_AGAIN_S)


def until_blocking(condition: Callable[[], Any]) -> Any:
    """As `until`, on the calling thread."""
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, "the state never came"
        time.sleep(_LOOK_AGAIN_S)
    return value


async def until_idle(engine: Any) -> None:
    """Wait until an awaited engine works on nothing."""

    async def idle() -> bool:
        return (await engine.metrics())["running_requests"] == 0

    await until(idle)


async def until_running(engine: Any, requests: int = 1) -> None:
    """Wait until an awaited engine works on so many requests."""

    async def running() -> bool:
        return bool((await engine.metrics())["running_requests"] >= requests)

    await until(running)


def has_ended(pid: int) -> bool:
    """Whether a process has ended, although its parent may not have taken note of it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
