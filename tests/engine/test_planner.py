"""Whose schemas are compiled, when several clients have some."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mlc_widget.engine import planner
from mlc_widget.engine.planner import Planner

from ..waiting import until

SLOW = {"response_format": {"type": "json_object"}}


@pytest.fixture
def running(monkeypatch):
    """The schemas that are being compiled, each until its event is set."""
    running = {}

    def plan(kind, model, checked):
        if (name := checked.get("name")) is None:
            return "plain"
        running[name] = threading.Event()
        running[name].wait(60)
        del running[name]
        if name == "bad":
            raise ValueError(name)
        return name

    monkeypatch.setattr(planner, "plan", plan)
    yield running
    while running:
        for event in list(running.values()):
            event.set()


async def test_a_client_compiles_one_schema_at_a_time_even_if_its_requests_leave(running):
    flooding, other = Planner(shares=True), Planner(shares=True)
    asked = [
        asyncio.create_task(flooding.plan("chat", None, {**SLOW, "name": name}))
        for name in ("bad", "second", "third")
    ]
    await until(lambda: "bad" in running)
    asked[0].cancel()
    await asyncio.wait({asked[0]})
    assert await flooding.plan("chat", None, {}) == "plain"
    answer = asyncio.create_task(other.plan("chat", None, {**SLOW, "name": "other"}))
    await until(lambda: "other" in running)
    assert set(running) == {"bad", "other"}
    running["other"].set()
    assert await answer == "other"
    running["bad"].set()
    await until(lambda: set(running) == {"second"})
    asked[2].cancel()
    running["second"].set()
    assert await asked[1] == "second"
    last = asyncio.create_task(flooding.plan("chat", None, {**SLOW, "name": "last"}))
    await until(lambda: set(running) == {"last"})
    running["last"].set()
    assert await last == "last"


async def test_a_client_that_is_alone_compiles_several(running):
    alone = Planner(shares=False)
    asked = [asyncio.create_task(alone.plan("chat", None, {**SLOW, "name": name})) for name in "ab"]
    await until(lambda: set(running) == {"a", "b"})
    for event in list(running.values()):
        event.set()
    assert await asyncio.gather(*asked) == ["a", "b"]
