"""A room lets so many in at a time, in order, and loses no place."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.proxy import in_flight
from mlc_widget.proxy.core import KernelCore
from mlc_widget.proxy.room import Room

from . import local_worker


class Guests:
    """Guests of a room with two places; those that are in it are in `inside`, in order."""

    def __init__(self) -> None:
        self.room: Room[int] = Room(2)
        self.inside: list[int] = []
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def come(self, *guests: int) -> None:
        for guest in guests:
            self.tasks[guest] = asyncio.create_task(self._stay(guest))
        await self.settle()

    async def _stay(self, guest: int) -> None:
        try:
            await self.room.enter(guest)
            self.inside.append(guest)
        except asyncio.CancelledError:
            self.room.leave(guest)

    async def go(self, *guests: int) -> None:
        for guest in guests:
            self.inside.remove(guest)
            self.room.leave(guest)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


async def test_they_enter_in_order() -> None:
    guests = Guests()
    await guests.come(1, 2, 3, 4, 5)
    assert guests.inside == [1, 2]
    await guests.go(1)
    assert guests.inside == [2, 3]
    await guests.go(2, 3)
    assert guests.inside == [4, 5]
    guests.room.leave(1)  # again
    await guests.come(6)
    assert guests.inside == [4, 5]


async def test_a_cancelled_wait_takes_no_place() -> None:
    guests = Guests()
    await guests.come(1, 2, 3, 4)
    guests.tasks[3].cancel()
    guests.room.leave(1)  # before the cancellation is noticed: the place is 3's for a moment
    await guests.settle()
    assert guests.inside == [1, 2, 4]
    await guests.come(5)
    assert guests.inside == [1, 2, 4]


async def test_one_that_is_let_in_is_counted() -> None:
    guests = Guests()
    await guests.come(1, 2, 3, 4)
    guests.room.let_in(4)
    guests.room.let_in(7)  # not there
    await guests.settle()
    assert guests.inside == [1, 2, 4]
    await guests.go(1)
    assert guests.inside == [2, 4]
    await guests.go(2)
    assert guests.inside == [4, 3]


async def test_requests_that_wait_for_a_place_can_be_aborted(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_worker, "SCRIPT", {"text": "a b c", "hang_after": 1})
    monkeypatch.setattr(in_flight, "WHOLE_AT_ONCE", 1)
    home = HomeLoop.shared()

    async def reasons() -> list[str]:
        """How the second ends while the first is answered, and then the others."""
        core = KernelCore(home, local_worker.LocalProcess)  # type: ignore[arg-type]
        try:
            await core.reload([str(tiny_model)])
            first, second, third = (
                asyncio.create_task(core.request("completion", {"prompt": "x", "request_id": name}))
                for name in ("first", "second", "third")
            )
            while (await core.metrics())["running_requests"] != 1:
                pass
            await core.abort("second")
            answers = [await second]
            assert not first.done()
            assert not third.done()
            await core.interrupt_generate()
            answers += [await first, await third]
        finally:
            await core.terminate()
        return [answer["choices"][0]["finish_reason"] for answer in answers]

    assert await asyncio.wrap_future(home.submit(reasons())) == ["abort"] * 3
