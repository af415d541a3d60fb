"""Calls on daemon threads: threads are used again, and a call that never returns holds nobody."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
import weakref
from typing import Any

import pytest

from mlc_widget.engine.system import daemon
from mlc_widget.engine.system.daemon import call_in_daemon

from ...waiting import DEADLINE_S, until


@pytest.fixture(autouse=True)
def idle(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The threads that wait, of this test's own."""
    idle: list[Any] = []
    monkeypatch.setattr(daemon, "_idle", idle)
    return idle


async def test_a_thread_runs_one_call_after_another() -> None:
    used = {await call_in_daemon(threading.current_thread, "a call") for _ in range(50)}
    assert len(used) <= daemon._IDLE
    assert all(thread.daemon and thread.name == "a call" for thread in used)


async def test_after_many_calls_at_once_few_threads_are_left(idle: list[Any]) -> None:
    calls = [call_in_daemon(threading.current_thread, str(i)) for i in range(200)]
    used = set(await asyncio.gather(*calls))
    await until(lambda: sum(thread.is_alive() for thread in used) == len(idle))
    assert 0 < len(idle) <= 2 * daemon._IDLE  # those that end at one moment do not count each other


async def test_calls_that_do_not_return_hold_nobody(idle: list[Any]) -> None:
    released = threading.Event()
    try:
        stuck = [call_in_daemon(released.wait, "stuck") for _ in range(3 * daemon._IDLE)]
        async with asyncio.timeout(DEADLINE_S):
            assert await call_in_daemon(lambda: 7, "short") == 7
        assert not any(call.done() for call in stuck)
    finally:
        released.set()
    assert all(await asyncio.gather(*stuck))
    await until(lambda: len(idle) >= daemon._IDLE)


@pytest.mark.parametrize("raised", [ValueError("x"), StopIteration("x"), SystemExit("x")])
async def test_what_a_call_raises_is_its_own(raised: BaseException) -> None:
    def fail() -> None:
        raise raised

    expected = ValueError if isinstance(raised, ValueError) else RuntimeError
    for _ in range(2):
        with pytest.raises(expected, match="x"):
            await call_in_daemon(fail, "fails")
    assert await call_in_daemon(lambda: 7, "goes on") == 7


async def test_nothing_of_a_call_is_left_to_the_next() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    variable.set(1)

    class Text:
        pass

    text: Any = Text()
    kept = weakref.ref(text)

    def change(_: object = text) -> int:
        before = variable.get()
        variable.set(2)
        return before

    assert [await call_in_daemon(change, "changes") for _ in range(9)] == [0] * 9
    del text, change
    await until(lambda: kept() is None)


async def test_without_threads_a_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without:
        without.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            call_in_daemon(lambda: 7, "at once")
    assert await call_in_daemon(lambda: 7, "again") == 7


_PROCESS = """
import asyncio, os, sys, threading
from mlc_widget.engine.system.daemon import call_in_daemon

async def call():
    assert await call_in_daemon(lambda: 7, "short") == 7

asyncio.run(call())
if hasattr(os, "fork"):
    child = os.fork()
    if child == 0:
        asyncio.run(call())
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3

async def leave():
    call_in_daemon(threading.Event().wait, "stuck")

asyncio.run(leave())
"""


def test_a_process_ends_whatever_runs_and_a_forked_one_has_its_own_threads() -> None:
    process = [sys.executable, "-W", "ignore", "-c", _PROCESS]
    done = subprocess.run(process, capture_output=True, text=True, timeout=DEADLINE_S)
    assert (done.returncode, done.stderr) == (0, "")
