"""The home loop: results reach the waiting caller, or are cleaned up if it was cancelled."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import warnings
from functools import partial

import pytest

from mlc_widget.api.home_loop import HomeLoop


@pytest.fixture(scope="module")
def home() -> HomeLoop:
    return HomeLoop("test-home")


async def make(results: list[int], number: int) -> int:
    results.append(number)
    return number


async def test_every_result_arrives_or_is_abandoned(home: HomeLoop) -> None:
    made: list[int] = []
    arrived: list[int] = []
    abandoned: list[int] = []

    async def wait(number: int) -> None:
        arrived.append(await home.wait(partial(make, made, number), abandoned=abandoned.append))

    # Cancelled a little later each time, so that some are cancelled at every stage.
    for number in range(2000):
        task = asyncio.create_task(wait(number))
        for _ in range(number % 12):
            await asyncio.sleep(0)
        if number % 3 == 0:
            time.sleep(0.0001)  # noqa: ASYNC251 - lets the other thread get ahead
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await home.wait(partial(asyncio.sleep, 0))
    await home.wait(partial(asyncio.sleep, 0))
    assert sorted([*arrived, *abandoned]) == made
    assert abandoned
    assert arrived


async def test_cancelling_the_waiter_cancels_the_work(home: HomeLoop) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    task = asyncio.create_task(home.wait(work))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 30)


async def test_errors_arrive_and_none_goes_unretrieved(home: HomeLoop) -> None:
    complaints: list[object] = []
    loops = (asyncio.get_running_loop(), home.loop)
    for loop in loops:
        loop.set_exception_handler(lambda _, context: complaints.append(context))

    async def fail() -> None:
        raise ZeroDivisionError("by zero")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(10):
            with pytest.raises(ZeroDivisionError):
                await home.wait(fail)
            task = asyncio.create_task(home.wait(fail))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await home.wait(partial(asyncio.sleep, 0.01))
        gc.collect()
    for loop in loops:
        loop.set_exception_handler(None)
    assert complaints == []


def test_blocking_waits(home: HomeLoop) -> None:
    assert home.wait_blocking(lambda: make([], 5)) == 5

    async def on_the_home_thread() -> None:
        home.wait_blocking(lambda: make([], 5))

    with pytest.raises(RuntimeError, match="own thread would deadlock"):
        home.wait_blocking(on_the_home_thread)


async def test_work_does_not_inherit_the_callers_context(home: HomeLoop) -> None:
    cell = contextvars.ContextVar("cell", default="none")
    cell.set("this one")

    async def read() -> str:
        return cell.get()

    assert await home.wait(read) == "none"
