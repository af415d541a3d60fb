"""A message that does not reach the worker is an error for its sender, and for nobody else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psutil
import pytest

from mlc_widget import AsyncKernelMLCEngine
from mlc_widget.api.errors import EngineDeadError, ModelNotFoundError, ProtocolError
from mlc_widget.proxy.worker import Worker

from ..waiting import DEADLINE_S, until, until_idle, until_running

Make = Callable[..., Awaitable[AsyncKernelMLCEngine]]

HELLO = [{"role": "user", "content": "Hello!"}]
OFTEN: Final = {"hang_timeout": 6.0}
"""The worker is asked for its state every second, which shows that something before is missing."""

_MODULE = """
import mlc_widget.worker.handler as handler
from mlc_widget.worker import reorder_buffer

class Impatient(handler.KernelMLCEngineHandler):
    def __init__(self, core, send):
        reorder_buffer.PATIENCE_S = 0.2
        super().__init__(core, send)
"""


@pytest.fixture
def impatient(worker_module: Callable[[str, str], None]) -> str:
    worker_module("impatient_handler", _MODULE)
    return "impatient_handler:Impatient"


def drop(engine: AsyncKernelMLCEngine, kind: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lose the next message of a kind on its way; returns what was lost."""
    worker = engine._core._supervisor.worker
    assert worker is not None
    outbox = worker.connection._outbox
    pack, send = outbox._pack, outbox._send
    packed: list[str] = []
    dropped: list[str] = []

    def pack_and_tell(data: Any) -> Any:
        packed.append(data["kind"])
        return pack(data)

    def lose(frames: Any) -> None:
        if packed[-1] == kind and not dropped:
            dropped.append(kind)
        else:
            send(frames)

    monkeypatch.setattr(outbox, "_pack", pack_and_tell)
    monkeypatch.setattr(outbox, "_send", lose)
    return dropped


async def test_a_lost_request_is_an_error_and_its_neighbours_are_answered(
    kernel_engine: Make, impatient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await kernel_engine(handler=impatient)
    dropped = drop(engine, "completionNonStreaming", monkeypatch)
    lost = asyncio.create_task(engine.completions.create(prompt="x"))
    await until(lambda: dropped)
    answers = await asyncio.gather(
        *(engine.chat.completions.create(messages=HELLO) for _ in range(5))
    )
    assert {a.choices[0].finish_reason for a in answers} == {"stop"}
    with pytest.raises(ProtocolError, match=r"Message \d+ to the worker, completionNonStreaming"):
        await lost
    assert (await engine.completions.create(prompt="x", max_tokens=1)).choices


async def test_a_lost_stream_and_lost_credit_are_errors(
    kernel_engine: Make, impatient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await kernel_engine(handler=impatient, repeat=5000, **OFTEN)
    for kind in ("chatCompletionStreamInit", "streamCredit"):
        dropped, followed = drop(engine, kind, monkeypatch), False
        with pytest.raises(ProtocolError, match=f"to the worker, {kind}, was lost: try again"):
            async for _ in await engine.chat.completions.create(messages=HELLO, stream=True):
                if dropped and not followed:
                    await engine.metrics()  # what comes behind it shows that it is missing
                    followed = True
        assert dropped == [kind]
    await until_idle(engine)


async def test_a_lost_message_is_noticed_while_nothing_else_is_asked(
    kernel_engine: Make, impatient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await kernel_engine(handler=impatient, **OFTEN)
    drop(engine, "metrics", monkeypatch)
    with pytest.raises(ProtocolError, match="metrics, was lost"):
        await engine.metrics()


async def test_what_nobody_waits_for_is_sent_again(
    kernel_engine: Make, impatient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await kernel_engine(handler=impatient, repeat=10**6, pace_s=0.001)
    dropped = drop(engine, "completionStreamReturn", monkeypatch)
    stream = await engine.chat.completions.create(messages=HELLO, stream=True)
    await stream.close()
    await until(lambda: dropped)
    await until_idle(engine)  # what comes behind it shows that it is missing
    dropped = drop(engine, "abort", monkeypatch)
    whole = asyncio.create_task(engine.chat.completions.create(messages=HELLO))
    await until_running(engine)
    whole.cancel()
    await until(lambda: dropped)
    await until_idle(engine)
    dropped = drop(engine, "setAppConfig", monkeypatch)
    await engine.set_app_config({"model_list": [{"model_id": "mine", "model": "/no/such"}]})
    assert dropped
    with pytest.raises(ModelNotFoundError, match="/no/such"):
        await until_loaded(engine, "mine")


async def until_loaded(engine: AsyncKernelMLCEngine, model: str) -> None:
    """Load it, again if the worker does not know the config yet that is still on its way."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(ProtocolError):
                return await engine.reload(model)


def break_shell(engine: AsyncKernelMLCEngine, worker: Worker) -> None:
    """What is sent next cannot be."""
    engine._core.call_soon(worker.connection._shell.close, 0)


def break_iopub(engine: AsyncKernelMLCEngine, worker: Worker) -> None:
    """Nothing can be read any more."""
    engine._core.call_soon(worker.connection._iopub.close, 0)


def close_comm(engine: AsyncKernelMLCEngine, worker: Worker) -> None:
    """As a worker does whose kernel is restarted by somebody else."""
    engine._core.call_soon(worker.connection.lose, worker.connection._closed_by_worker())


@pytest.mark.parametrize(
    "breaks", [break_shell, pytest.param(break_iopub, marks=pytest.mark.soak), close_comm]
)
async def test_a_worker_that_cannot_be_reached_is_replaced(
    kernel_engine: Make, breaks: Callable[[AsyncKernelMLCEngine, Worker], None]
) -> None:
    engine = await kernel_engine(repeat=10**6, pace_s=0.01)
    running = asyncio.create_task(engine.chat.completions.create(messages=HELLO))
    stream = await engine.chat.completions.create(messages=HELLO, stream=True)
    await anext(stream)
    await until_running(engine, 2)
    worker = engine._core._supervisor.worker
    assert worker is not None
    pid = engine.worker_pid
    assert pid is not None
    breaks(engine, worker)
    with contextlib.suppress(EngineDeadError):
        await engine.metrics()  # without something to send, nobody would notice
    # Both go on in the next worker.
    while not getattr(await anext(stream), "resumed", None):
        pass  # a loop that is left would end the stream
    await until_running(engine, 2)
    assert engine.worker_pid not in (pid, None)
    await until(lambda: not psutil.pid_exists(pid))
    running.cancel()
    await stream.close()
    assert (await engine.chat.completions.create(messages=HELLO, max_tokens=1)).choices


async def test_a_socket_that_breaks_is_told(kernel_engine: Make) -> None:
    engine = await kernel_engine(repeat=1000, pace_s=0.01, recovery="error")
    running = asyncio.create_task(engine.chat.completions.create(messages=HELLO))
    await until_running(engine)
    worker = engine._core._supervisor.worker
    assert worker is not None
    break_shell(engine, worker)
    with pytest.raises(EngineDeadError, match=r"connection to the worker broke(.|\n)*not affected"):
        await engine.metrics()
    with pytest.raises(EngineDeadError, match="connection to the worker broke"):
        await running
    assert engine.state == "dead"
    assert (await engine.chat.completions.create(messages=HELLO, max_tokens=1)).choices
