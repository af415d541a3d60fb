from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mlc_widget.api.errors import LoadCancelledError
from mlc_widget.engine.load_sequence import LoadSequence, uncancelled

from ..waiting import until


class Work:
    """A load that runs until it is released or cancelled, and then cleans up for some time."""

    def __init__(self, log: list[str], name: str) -> None:
        self.begun = False
        self.may_end = asyncio.Event()
        self.may_clean_up = asyncio.Event()
        self._log, self._name = log, name

    async def __call__(self) -> None:
        self.begun = True
        self._log.append(f"{self._name} begins")
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            await self.may_clean_up.wait()
            self._log.append(f"{self._name} is cleaned up")
            raise
        self._log.append(f"{self._name} ends")


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
async def loads() -> AsyncIterator[LoadSequence]:
    async with asyncio.timeout(60):
        yield LoadSequence()


async def test_the_newest_begins_once_the_older_has_cleaned_up(
    loads: LoadSequence, log: list[str]
) -> None:
    first, second = Work(log, "first"), Work(log, "second")
    one = asyncio.create_task(loads.run(first))
    await until(lambda: first.begun)
    two = asyncio.create_task(loads.run(second))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not second.begun
    first.may_clean_up.set()
    second.may_end.set()
    await two
    with pytest.raises(LoadCancelledError, match="newer"):
        await one
    assert log == ["first begins", "first is cleaned up", "second begins", "second ends"]


async def test_one_that_never_began_is_passed_over(loads: LoadSequence, log: list[str]) -> None:
    works = [Work(log, name) for name in ("first", "second", "third")]
    tasks = [asyncio.create_task(loads.run(works[0]))]
    await until(lambda: works[0].begun)
    tasks += [asyncio.create_task(loads.run(work)) for work in works[1:]]
    works[0].may_clean_up.set()
    works[2].may_end.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(o) for o in outcomes] == [LoadCancelledError, LoadCancelledError, type(None)]
    assert not works[1].begun


async def test_cancelling_the_caller_ends_its_work_and_frees_the_place(
    loads: LoadSequence, log: list[str]
) -> None:
    first, second = Work(log, "first"), Work(log, "second")
    one = asyncio.create_task(loads.run(first))
    await until(lambda: first.begun)
    first.may_clean_up.set()
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    second.may_end.set()
    await loads.run(second)
    assert log[-1] == "second ends"


async def test_a_failure_is_the_callers_and_the_next_load_runs(
    loads: LoadSequence, log: list[str]
) -> None:
    async def fails() -> None:
        raise ValueError("a damaged file")

    with pytest.raises(ValueError, match="a damaged file"):
        await loads.run(fails)
    work = Work(log, "next")
    work.may_end.set()
    await loads.run(work)
    assert log == ["next begins", "next ends"]


async def test_what_may_not_be_cut_short_is_done_before_the_caller_is_cancelled() -> None:
    may_end, done = asyncio.Event(), []

    async def give_back() -> None:
        await may_end.wait()
        done.append(True)

    task = asyncio.create_task(uncancelled(give_back()))
    for _ in range(3):  # impatience changes nothing
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [True]


async def test_uncancelled_gives_the_result_or_the_error() -> None:
    async def fails() -> None:
        raise KeyError("lost")

    assert await uncancelled(asyncio.sleep(0, "result")) == "result"
    with pytest.raises(KeyError, match="lost"):
        await uncancelled(fails())
