"""The watch over a loaded engine, by itself: with a clock that stands, and moves when told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mlc_widget.api.errors import EngineDeadError
from mlc_widget.engine.runtimes.mlc_llm import health
from mlc_widget.engine.runtimes.mlc_llm.health import EngineHealth
from mlc_widget.engine.runtimes.mlc_llm.threads import ThreadDeaths

from ....waiting import until


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Engine:
    """Has a thread, and answers questions while `answers` is true, each after 30 s."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.answers, self.asked = clock, True, 0
        self.errors: list[EngineDeadError] = []
        self.going_on = threading.Event()
        self.thread = threading.Thread(target=self.going_on.wait)

    async def ask(self) -> dict[str, Any]:
        self.asked += 1
        self.clock.now += 30.0
        if not self.answers:
            await asyncio.Event().wait()
        return {}

    def watch(self) -> EngineHealth:
        return EngineHealth(
            [self.thread],
            ThreadDeaths(),
            self.ask,
            stall_timeout=50.0,
            on_dead=self.errors.append,
        )


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(health, "_POLL_S", 0.001)
    monkeypatch.setattr(health, "time", clock := Clock())
    engine = Engine(clock)
    engine.thread.start()
    yield engine
    engine.going_on.set()
    engine.thread.join()


async def test_an_engine_that_answers_between_long_steps_is_alive(engine: Engine) -> None:
    """No token comes for ten times as long as the timeout."""
    watch = engine.watch()
    watch.begin()
    for asked in range(1, 20):
        engine.clock.now += 10.0
        await until(lambda asked=asked: engine.asked >= asked)
    assert engine.clock.now > 100.0 + 10 * 50.0
    assert watch.error is None
    step = watch.running_step()
    assert step is not None
    assert step.number > 0
    engine.answers = False
    engine.clock.now += 10.0
    await until(lambda: engine.asked >= 20)
    engine.clock.now += 30.0
    await until(lambda: engine.errors)
    assert "has not answered for 50 s" in engine.errors[0].message
    await watch.close()


async def test_an_idle_engine_is_not_asked(engine: Engine) -> None:
    watch = engine.watch()
    watch.begin()
    watch.end()
    engine.clock.now += 1000.0
    polls = 0

    def alive() -> bool:
        nonlocal polls
        polls += 1
        return threading.Thread.is_alive(engine.thread)

    engine.thread.is_alive = alive  # type: ignore[method-assign]
    await until(lambda: polls >= 3)
    assert engine.asked == 0
    assert watch.error is None
    assert watch.running_step() is None
    await watch.close()


async def test_a_thread_that_ends_is_a_death(engine: Engine) -> None:
    watch = engine.watch()
    engine.going_on.set()
    await until(lambda: engine.errors)
    assert "thread died" in engine.errors[0].message
    await watch.close()
