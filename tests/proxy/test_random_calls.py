"""Proxy and handler under random calls, faults and reorderings: every call ends, and ends once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mlc_widget.api.errors import MLCEngineError
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.engine import loaded_models
from mlc_widget.proxy.core import KernelCore
from mlc_widget.worker import reorder_buffer

from ..waiting import until
from .conftest import DEADLINE_S
from .local_worker import SCRIPT, LocalProcess

WORDS = str(SCRIPT["text"]).split() * int(str(SCRIPT["repeat"]))
HELLO = [{"role": "user", "content": "Hello!"}]


class Call:
    """One call of the engine, from its beginning to its end."""

    def __init__(self, work: Coroutine[Any, Any, Any], expected: str | None = None) -> None:
        self.expected = expected
        self.ends_others = False
        self.may_read = asyncio.Semaphore(0)
        self.stopped = False  # so that the answer may be shorter
        self.task = asyncio.create_task(work)

    def check(self) -> None:
        """Fail unless it ended with its answer, or an error of ours, or as it was cancelled."""
        if self.task.cancelled():
            assert self.stopped
        elif (error := self.task.exception()) is not None:
            assert isinstance(error, MLCEngineError), repr(error)
        elif self.expected is not None:
            text = self.task.result()
            assert text == self.expected or (self.stopped and self.expected.startswith(text))


class Engine(RuleBasedStateMachine):
    """An engine whose worker is in this process."""

    models: ClassVar[list[str]]

    def __init__(self) -> None:
        super().__init__()
        self.home = HomeLoop.shared()
        self.calls: list[Call] = []
        self.count = 0
        self.core = self._do(self._make())

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.home.submit(work).result(DEADLINE_S)

    async def _make(self) -> KernelCore:
        LocalProcess.alive.clear()
        core = KernelCore(self.home, LocalProcess)  # type: ignore[arg-type]
        await core.reload([self.models[0]])
        return core

    def _begin(
        self,
        work: Coroutine[Any, Any, Any],
        expected: str | None = None,
        *,
        ends_others: bool = False,
    ) -> None:
        async def begin() -> None:
            call = Call(work, expected)
            # What was asked for before may reach the worker later, after a load for instance.
            call.stopped = any(not other.task.done() for other in self.calls if other.ends_others)
            call.ends_others = ends_others
            self.calls.append(call)
            if ends_others:
                self._stop(*self.calls)
            await asyncio.sleep(0)

        self._do(begin())

    # Calls

    def _request(self, tokens: int) -> dict[str, Any]:
        self.count += 1
        return {"messages": HELLO, "max_tokens": tokens, "request_id": f"r{self.count}"}

    @rule(tokens=st.integers(1, len(WORDS)))
    def ask(self, tokens: int) -> None:
        async def answer() -> str:
            said = await self.core.request("chat", self._request(tokens))
            return str(said["choices"][0]["message"]["content"])

        self._begin(answer(), " ".join(WORDS[:tokens]))

    @rule(tokens=st.integers(1, len(WORDS)))
    def stream(self, tokens: int) -> None:
        async def read() -> str:
            call = next(c for c in self.calls if c.task is asyncio.current_task())
            stream = await self.core.open_stream("chat", self._request(tokens))
            text = ""
            try:
                async for batch in stream:
                    for chunk in batch:
                        for choice in chunk["choices"]:
                            text += choice["delta"].get("content") or ""
                    await call.may_read.acquire()
            finally:
                await stream.aclose()
            return text

        self._begin(read(), " ".join(WORDS[:tokens]))

    @rule(model=st.integers(0, 1))
    def load(self, model: int) -> None:
        self._begin(self.core.reload([self.models[model]]), ends_others=True)

    @rule()
    def unload(self) -> None:
        self._begin(self.core.unload(), ends_others=True)

    @rule()
    def restart(self) -> None:
        self._begin(self.core.restart(), ends_others=True)

    @rule()
    def interrupt(self) -> None:
        self._begin(self.core.interrupt_generate(), ends_others=True)

    @rule(which=st.integers(1, 30))
    def abort(self, which: int) -> None:
        self._begin(self.core.abort(f"r{which}"), ends_others=True)

    @rule(kind=st.sampled_from(["metrics", "list_models", "device_info", "get_message"]))
    def look(self, kind: str) -> None:
        self._begin(getattr(self.core, kind)())

    # What users do with calls

    def _stop(self, *calls: Call) -> None:
        for call in calls:
            call.stopped = True

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.calls))
        self._stop(call)
        self.home.call_soon(call.task.cancel)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), batches=st.integers(1, 5))
    def read_on(self, data: st.DataObject, batches: int) -> None:
        call = data.draw(st.sampled_from(self.calls))
        for _ in range(batches):
            self.home.call_soon(call.may_read.release)

    @rule(steps=st.integers(1, 60))
    def wait(self, steps: int) -> None:
        async def wait() -> None:
            for _ in range(steps):
                await asyncio.sleep(0)

        self._do(wait())

    # Faults

    @rule(fault=st.sampled_from(["die", "cut", "lose", "swap"]), count=st.integers(1, 3))
    def fault(self, fault: str, count: int) -> None:
        async def make() -> None:
            for process in list(LocalProcess.alive):
                if fault == "die":
                    await process.die()
                elif fault == "cut":
                    process.cut()
                else:
                    setattr(process, fault, count)

        self._do(make())

    @invariant()
    def at_most_one_worker_is_alive(self) -> None:
        assert len(LocalProcess.alive) <= 1

    def teardown(self) -> None:
        async def end() -> None:
            for call in self.calls:
                for _ in range(len(WORDS) + 2):
                    call.may_read.release()
            for process in list(LocalProcess.alive):
                process.lose = process.swap = 0
                if process.is_cut:
                    await process.die()
            if self.calls:
                await asyncio.wait({call.task for call in self.calls}, timeout=DEADLINE_S)
            hanging = [call.task for call in self.calls if not call.task.done()]
            assert not hanging, f"{len(hanging)} calls never ended: {hanging}"
            for call in self.calls:
                call.check()
            # The next load and the next request are served.
            await self.core.reload([self.models[1]])
            said = await self.core.request("chat", {"messages": HELLO})
            assert said["choices"][0]["message"]["content"] == " ".join(WORDS)
            assert not self.core._in_flight_requests._active
            worker = self.core._supervisor.worker
            assert worker is not None
            assert not worker.connection.busy
            [process] = LocalProcess.alive
            assert process.core.running_requests == 0
            await self.core.terminate()
            assert not LocalProcess.alive

        self._do(end())


@pytest.fixture
def machine(
    tiny_model: Path, other_tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[Engine]]:
    monkeypatch.setattr(reorder_buffer, "PATIENCE_S", 0.05)
    # It collects garbage, which takes long in a process with thousands of tests.
    monkeypatch.setattr(loaded_models, "give_back_memory", lambda: None)
    Engine.models = [str(tiny_model), str(other_tiny_model)]
    return Engine


EXAMPLES = [8, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]


@pytest.mark.parametrize("examples", EXAMPLES)
def test_every_call_ends_once_whatever_happens(machine: type[Engine], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


async def test_a_load_is_newer_than_a_restore_that_is_about_to_begin(
    tiny_model: Path, other_tiny_model: Path
) -> None:
    home = HomeLoop.shared()

    async def load_just_then() -> str:
        core = KernelCore(home, LocalProcess)  # type: ignore[arg-type]
        await core.reload([str(tiny_model)])
        await next(iter(LocalProcess.alive)).die()
        await until(lambda: core._supervisor.worker is None)
        request = asyncio.create_task(core.request("chat", {"messages": HELLO, "max_tokens": 1}))
        while core._models._restoring is None:
            await asyncio.sleep(0)
        await core.reload([str(other_tiny_model)])
        await request
        [model] = await core.list_models()
        await core.terminate()
        return str(model["id"])

    LocalProcess.alive.clear()
    assert home.submit(load_just_then()).result(DEADLINE_S) == str(other_tiny_model)
