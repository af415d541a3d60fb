"""A worker whose notebook cannot be watched ends when nothing comes from it any more."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from mlc_widget.api.errors import ProtocolError
from mlc_widget.worker import lease as module
from mlc_widget.worker.lease import UNCLAIMED_S, Lease, read_link_timeout


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)

    def run(self, lease: Lease, seconds: float) -> None:
        """Let time pass, counted twice a second."""
        for _ in range(int(seconds * 2)):
            self.now += 0.5
            lease.count()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def promised(lease: Lease, *timeouts: float) -> None:
    async def promise() -> None:
        for timeout in timeouts:
            lease.promise(timeout)

    asyncio.run(promise())


def test_silence_ends_it_and_any_message_renews(clock: Clock) -> None:
    said: list[str] = []
    lease = Lease(said.append)
    promised(lease, 10.0)
    for _ in range(5):
        clock.run(lease, 9)
        lease.renew()
    assert said == []
    clock.run(lease, 10)
    assert said == ["Nothing has come from the notebook for 10 s."]


@pytest.mark.parametrize("timeouts", [(5.0, math.inf), (math.inf, 5.0), (math.inf,), (2.0, 900.0)])
def test_the_longest_promise_counts(clock: Clock, timeouts: tuple[float, ...]) -> None:
    said: list[str] = []
    lease = Lease(said.append)
    promised(lease, *timeouts)
    clock.run(lease, 800)
    assert said == []


def test_a_worker_that_no_client_ever_opens_ends(clock: Clock) -> None:
    said: list[str] = []
    lease = Lease(said.append)
    clock.run(lease, UNCLAIMED_S - 1)
    assert said == []
    clock.run(lease, 1)
    assert said == ["No client has come for 600 s."]


def test_the_time_for_which_it_was_stopped_does_not_count(clock: Clock) -> None:
    said: list[str] = []
    lease = Lease(said.append)
    promised(lease, 10.0)
    for stopped in (3600, 86400):  # a machine that sleeps, an event loop that is blocked
        clock.now += stopped
        for _ in range(50):  # the counts that had to wait come at once
            lease.count()
    assert said == []


@pytest.mark.parametrize("value", [0, -1, True, "60", [60], {}, math.nan])
def test_a_link_timeout_that_is_none(value: Any) -> None:
    with pytest.raises(ProtocolError, match="linkTimeout = "):
        read_link_timeout({"linkTimeout": value})


@pytest.mark.parametrize(
    ("opening", "seconds"),
    [
        ({}, math.inf),
        ({"linkTimeout": None}, math.inf),
        ({"linkTimeout": 5}, 5),
        ({"linkTimeout": 10**400}, math.inf),
    ],
)
def test_link_timeouts(opening: Any, seconds: float) -> None:
    assert read_link_timeout(opening) == seconds
