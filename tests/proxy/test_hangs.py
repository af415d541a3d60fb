"""Hangs are distinguished from work, reported, and ended only on request."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlc_widget import AsyncKernelMLCEngine, KernelMLCEngine
from mlc_widget.api.errors import BadRequestError, EngineDeadError, EngineTerminatedError
from mlc_widget.proxy import hangs, process
from mlc_widget.proxy.hangs import HangWatch

from ..waiting import until
from .conftest import DEADLINE_S, GatedModel, Make

pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")


HELLO = [{"role": "user", "content": "Hello!"}]
SOON = 0.3
"""A `hang_timeout` for what does hang."""
_HANDLERS = """
import ctypes
from mlc_widget.worker.handler import KernelMLCEngineHandler

class Stuck(KernelMLCEngineHandler):
    async def custom_request(self, name, message):
        ctypes.PyDLL(None).sleep(1000)  # native code that never gives the interpreter back

class Odd(KernelMLCEngineHandler):
    def _table(self):
        async def odd(request):
            return [{"model": "demo"}]
        return {**super()._table(), "health": odd}
"""


@pytest.fixture
def handlers(worker_module: Callable[[str, str], None]) -> str:
    """The module of the worker's handlers."""
    worker_module("hanging_handlers", _HANDLERS)
    return "hanging_handlers"


class Reports:
    """Records all reports of an engine from now on."""

    def __init__(self, engine: AsyncKernelMLCEngine) -> None:
        self.parts: list[str | None] = []
        engine._core.observe(lambda snapshot: self._take(snapshot.hang and snapshot.hang.part))

    def _take(self, part: str | None) -> None:
        if part != (self.parts[-1] if self.parts else None):
            self.parts.append(part)


async def until_hung(engine: AsyncKernelMLCEngine, part: str) -> None:
    await until(lambda: engine.hang is not None and engine.hang.part == part)


def send(engine: AsyncKernelMLCEngine, number: signal.Signals) -> None:
    assert engine.worker_pid is not None
    os.kill(engine.worker_pid, number)


def watch(engine: AsyncKernelMLCEngine) -> HangWatch:
    worker = engine._core._supervisor.worker
    assert worker is not None
    return worker.hangs


async def until_more_is_heard(engine: AsyncKernelMLCEngine, messages: int) -> None:
    """Wait until so many messages have come from the worker: answers to the pings."""
    connection = watch(engine)._connection
    heard = connection.heard
    await until(lambda: connection.heard >= heard + messages)


async def health(engine: AsyncKernelMLCEngine) -> list[dict[str, Any]]:
    """The worker's own word on its models' steps."""
    worker = engine._core._supervisor.worker
    assert worker is not None
    asked = engine._core.submit(worker.connection.call("health"))
    steps: list[dict[str, Any]] = await asyncio.wrap_future(asked)
    return steps


async def until_a_step_takes(engine: AsyncKernelMLCEngine, seconds: float) -> None:
    async def taken() -> bool:
        return any(step["seconds"] > seconds for step in await health(engine))

    await until(taken)


def stream(engine: AsyncKernelMLCEngine, **request: Any) -> AsyncIterator[Any]:
    async def chunks() -> AsyncIterator[Any]:
        wanted = {"messages": HELLO, "seed": 7, "ignore_eos": True, "max_tokens": 40, **request}
        async for chunk in await engine.chat.completions.create(**wanted, stream=True):
            yield chunk

    return chunks()


async def read(engine: AsyncKernelMLCEngine, **request: Any) -> str:
    chunks = [c.choices[0].delta.content or "" async for c in stream(engine, **request)]
    return "".join(chunks)


async def restart(engine: AsyncKernelMLCEngine) -> None:
    await asyncio.wrap_future(engine._core.submit(engine._core.restart()))


# The worker answers nothing


async def test_a_stopped_worker_is_reported_until_it_goes_on(
    gated: GatedModel, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await gated.engine(hang_timeout=SOON)
    expected = await read(engine)
    reports = Reports(engine)
    gated.hold(12)
    reading = asyncio.create_task(read(engine))
    await gated.until_held()
    with caplog.at_level(logging.WARNING, logger="mlc_widget.proxy.hangs"):
        send(engine, signal.SIGSTOP)
        gated.release()
        await until_hung(engine, "worker")
        assert engine.state == "ready"
        assert engine.hang is not None
        assert engine.hang.seconds >= SOON
        assert not reading.done()
        send(engine, signal.SIGCONT)
        assert await reading == expected
        await until(lambda: engine.hang is None)
    assert reports.parts[0] == "worker"
    assert reports.parts[-1] is None
    logged = [record.getMessage() for record in caplog.records]
    assert len(logged) == len(reports.parts)  # once each
    assert logged[0].startswith("The worker has not answered for ")
    assert "%mlc restart" in logged[0]
    assert logged[-1].startswith("The worker responds again")
    worker = engine._core._supervisor.living()
    assert worker is not None
    await until(lambda: not worker.connection.asked.is_set())  # nothing is asked while nothing runs


@pytest.mark.parametrize("timeout", [SOON, math.inf])
async def test_terminate_ends_a_stopped_worker(
    kernel_engine: Make, timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await kernel_engine(hang_timeout=timeout, hang_after=2)
    pid = engine.worker_pid
    assert pid is not None
    chunks = stream(engine)
    await anext(chunks)
    send(engine, signal.SIGSTOP)
    if timeout == SOON:
        await until_hung(engine, "worker")
    # What this side knows is told even where the worker is waited for without end.
    known = await asyncio.wait_for(engine.statistics(), DEADLINE_S)
    assert (known.running_requests, known.open_streams) == (1, 1)
    monkeypatch.setattr(hangs, "_ANSWER_S", 0.1)
    for call in _CALLS.values():
        with pytest.raises(EngineDeadError, match="does not answer"):
            await asyncio.wait_for(call(engine), DEADLINE_S)
    await asyncio.wait_for(engine.terminate(), DEADLINE_S)
    assert not psutil.pid_exists(pid)
    assert engine.hang is None
    with pytest.raises(EngineTerminatedError):
        async for _ in chunks:
            pass


async def test_a_restart_ends_native_code_that_holds_the_interpreter(
    kernel_engine: Make, handlers: str
) -> None:
    engine = await kernel_engine(hang_timeout=SOON, handler=f"{handlers}:Stuck")
    pid = engine.worker_pid
    assert pid is not None
    stuck = asyncio.create_task(engine.custom_request("hold"))
    await until_hung(engine, "worker")
    await restart(engine)
    assert not psutil.pid_exists(pid)
    with pytest.raises(EngineDeadError, match="restarted"):
        await stuck
    assert engine.hang is None
    assert await read(engine) == "Hello from the script."


async def test_a_restart_goes_on_with_what_a_stopped_worker_was_at(gated: GatedModel) -> None:
    engine = await gated.engine(hang_timeout=SOON)
    expected = await read(engine)
    pid = engine.worker_pid
    assert pid is not None
    gated.hold(12)
    reading = asyncio.create_task(read(engine))
    await gated.until_held()
    send(engine, signal.SIGSTOP)
    await until_hung(engine, "worker")
    gated.release()
    await restart(engine)
    assert await reading == expected
    assert engine.worker_pid != pid
    assert not psutil.pid_exists(pid)
    assert engine.hang is None


_CALLS: dict[str, Callable[[AsyncKernelMLCEngine], Awaitable[Any]]] = {
    "metrics": lambda engine: engine.metrics(),
    "abort": lambda engine: engine.abort("r"),
    "interruptGenerate": lambda engine: engine.interrupt_generate(),
    "deviceInfo": lambda engine: engine.device_info(),
    "listModels": lambda engine: engine.models.list(),
    "runtimeStatsText": lambda engine: engine.runtime_stats_text(),
    "getMessage": lambda engine: engine.get_message(),
    "resetChat": lambda engine: engine.reset_chat(),
}


async def test_calls_of_a_silent_worker_are_not_left_waiting(kernel_engine: Make) -> None:
    engine = await kernel_engine(hang_timeout=SOON)
    pid = engine.worker_pid
    send(engine, signal.SIGSTOP)

    async def check(kind: str) -> None:
        with pytest.raises(EngineDeadError, match=r"does not answer.*%mlc restart") as raised:
            await _CALLS[kind](engine)
        assert raised.value.code == "worker_silent"
        assert f"({kind})" in raised.value.message

    async with asyncio.timeout(DEADLINE_S):
        # Those that wait when it is found to be silent, and those that come later.
        await asyncio.gather(*map(check, _CALLS))
        assert engine.hang is not None
        await asyncio.gather(*map(check, _CALLS))
        known = await engine.statistics()  # on this side
        assert (known.running_requests, known.worker_starts) == (0, 1)
    assert engine.worker_pid == pid, "it is reported; nothing was ended"
    # A request waits, and is answered once the worker goes on.
    reading = asyncio.create_task(read(engine))
    send(engine, signal.SIGCONT)
    await until(lambda: engine.hang is None)
    for call in _CALLS.values():
        await call(engine)
    reading.cancel()


@pytest.mark.parametrize("unloaded", [True, pytest.param(False, marks=pytest.mark.soak)])
async def test_a_load_or_unload_replaces_a_silent_worker(
    kernel_engine: Make, tiny_model: Path, unloaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_SHUTDOWN_S", 0.1)  # a stopped worker ends by SIGKILL only
    if unloaded:  # also where nothing counts as a hang
        monkeypatch.setattr(hangs, "_ANSWER_S", SOON)
        monkeypatch.setattr(hangs, "_INTERVAL_S", SOON / 6)
    engine = await kernel_engine(hang_timeout=math.inf if unloaded else SOON)
    pid = engine.worker_pid
    assert pid is not None
    send(engine, signal.SIGSTOP)
    if unloaded:
        await engine.unload()
        assert engine.state == "idle"
        assert not psutil.pid_exists(pid)
    await engine.reload(str(tiny_model))
    assert engine.worker_pid != pid
    assert await read(engine) == "Hello from the script."


# A model's thread is at one step


async def test_a_step_that_hangs_is_reported_and_then_allowed_for(
    gated: GatedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await gated.engine(hang_timeout=SOON)
    expected = await read(engine)
    reports = Reports(engine)
    gated.hold(12)
    reading = asyncio.create_task(read(engine))
    await gated.until_held()
    await until_hung(engine, "engine")
    assert engine.hang is not None
    assert "engine has made no progress" in engine.hang.message
    gated.release()
    assert await reading == expected
    await until(lambda: engine.hang is None)
    assert "engine" in reports.parts
    # This model's steps are known to be long by now.
    monkeypatch.setattr(hangs, "_USUAL_STEPS", 1000)
    reports.parts.clear()
    gated.hold(12)
    reading = asyncio.create_task(read(engine))
    await gated.until_held()
    await until_a_step_takes(engine, 2 * SOON)
    assert "engine" not in reports.parts
    gated.release()
    assert await reading == expected


async def test_a_step_hangs_if_it_is_seen_to_be_late_twice(kernel_engine: Make) -> None:
    engine = await kernel_engine(hang_timeout=30.0)
    looks: list[tuple[int, float, float | None, str | None]] = [
        (1, 299.0, None, None),  # the first step of all
        (1, 301.0, None, None),
        (1, 306.0, None, "engine"),
        (2, 31.0, 1.0, None),  # late, but another one
        (2, 36.0, 1.0, "engine"),
        (3, 36.0, 2.0, None),  # 20 times as long as a step may take here
        (3, 40.5, 2.0, None),
        (3, 45.5, 2.0, "engine"),
        (4, 0.1, 45.0, None),
    ]

    async def look() -> list[str | None]:
        parts = []
        for number, seconds, usual, _ in looks:
            watch(engine)._judge([("demo", number, seconds, usual)])
            parts.append(engine.hang and engine.hang.part)
        return parts

    found = await asyncio.wrap_future(engine._core.submit(look()))
    assert found == [part for *_, part in looks]


async def test_the_hang_of_a_step_outlasts_its_reader_and_an_unload(gated: GatedModel) -> None:
    engine = await gated.engine(hang_timeout=SOON)
    await read(engine)
    gated.hold(12)
    reading = asyncio.create_task(read(engine))
    await gated.until_held()
    await until_hung(engine, "engine")
    reports = Reports(engine)
    reading.cancel()
    await until_more_is_heard(engine, 4)
    unloading = asyncio.create_task(engine.unload())
    numbers = {step["number"] for step in await health(engine)}
    await until_a_step_takes(engine, 3 * SOON)
    assert numbers == {step["number"] for step in await health(engine)}
    assert None not in reports.parts
    gated.release()
    await unloading
    await until(lambda: engine.hang is None)


async def test_first_steps_may_be_long(gated: GatedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hangs, "_LONGER", 1000)
    engine = await gated.engine(hang_timeout=SOON)
    reports = Reports(engine)
    gated.hold(0)
    reading = asyncio.create_task(read(engine))
    await gated.until_held()
    await until_a_step_takes(engine, 2 * SOON)
    assert "engine" not in reports.parts
    gated.release()
    await reading


async def test_a_long_prompt_is_many_steps(gated: GatedModel) -> None:
    engine = await gated.engine()
    numbers = []
    for words in (1, 500):
        gated.hold(0)  # at the end of the prompt
        messages = [{"role": "user", "content": "hello world how are you " * words}]
        reading = asyncio.create_task(read(engine, messages=messages, max_tokens=1))
        await gated.until_held()
        [step] = await health(engine)
        numbers.append(step["number"])
        gated.release()
        await reading
    assert numbers[1] - numbers[0] >= 10


async def test_who_waits_for_a_slow_reader_is_at_no_step(
    kernel_engine: Make, tiny_model: Path
) -> None:
    engine = await kernel_engine(load=False, runtime="tvm", runtime_options={"threads": 1})
    await engine.reload(str(tiny_model))
    unread = await engine.chat.completions.create(
        messages=HELLO, stream=True, ignore_eos=True, max_tokens=4000
    )

    async def parked() -> bool:
        running = (await engine.metrics())["running_requests"]
        assert running == 1
        return await health(engine) == []

    await until(parked)
    await unread.close()


# What is no hang


async def test_a_silent_stretch_of_a_load_is_allowed_for(
    kernel_engine: Make, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hangs, "_LONGER", 1000)
    engine = await kernel_engine(load=False, hang_timeout=SOON, load_hangs=True)
    reports = Reports(engine)
    loading = asyncio.create_task(engine.reload(str(tiny_model)))
    await until(lambda: engine.state == "loading")
    send(engine, signal.SIGSTOP)
    await until(lambda: watch(engine).silence > 2 * SOON)
    send(engine, signal.SIGCONT)
    await until(lambda: watch(engine).silence == 0)
    assert reports.parts == []
    await engine.terminate()
    with pytest.raises(EngineTerminatedError):
        await loading


@pytest.mark.soak
async def test_a_compile_is_no_hang(kernel_engine: Make, tiny_model: Path, tmp_path: Path) -> None:
    options = {"threads": 1, "cache_dir": str(tmp_path)}
    engine = await kernel_engine(
        load=False, hang_timeout=1.0, runtime="tvm", runtime_options=options
    )
    reports = Reports(engine)
    await engine.reload(str(tiny_model))
    assert reports.parts == []


class Clock:
    """The module `time`, whose clock can be put forward."""

    def __init__(self) -> None:
        self.slept = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.slept


async def test_after_a_standstill_a_late_answer_is_no_hang(
    kernel_engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a laptop's sleep, or when a debugger held this process."""
    clock = Clock()
    monkeypatch.setattr(hangs, "time", clock)
    monkeypatch.setattr(hangs, "_INTERVAL_S", 0.05)
    engine = await kernel_engine(hang_timeout=300.0, hang_after=2)
    reports = Reports(engine)
    chunks = stream(engine)
    await anext(chunks)
    send(engine, signal.SIGSTOP)
    await until(lambda: watch(engine).silence > 0)
    before = watch(engine).silence
    clock.slept = 3600.0
    await until(lambda: watch(engine).silence > before)
    assert reports.parts == []
    send(engine, signal.SIGCONT)
    await until_more_is_heard(engine, 2)
    assert reports.parts == []


async def test_a_peer_that_answers_oddly_speaks(
    kernel_engine: Make, handlers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hangs, "_INTERVAL_S", 0.05)
    engine = await kernel_engine(hang_timeout=300.0, hang_after=2, handler=f"{handlers}:Odd")
    reports = Reports(engine)
    chunks = stream(engine)
    await anext(chunks)
    await until_more_is_heard(engine, 4)
    assert reports.parts == []
    assert not watch(engine)._task.done()


def test_the_timeout_is_checked() -> None:
    for wrong in (0, -1.0, math.nan, True, "30"):
        with pytest.raises(BadRequestError, match="hang_timeout") as caught:
            KernelMLCEngine(hang_timeout=wrong)  # type: ignore[arg-type]
        assert caught.value.param == "hang_timeout"
