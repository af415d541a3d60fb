"""A slow, blocked or stopped reader costs bounded memory, loses nothing and delays nobody."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil

from mlc_widget import AsyncKernelMLCEngine
from mlc_widget.api.streams import _CAPACITY
from mlc_widget.engine.core import DirectCore
from mlc_widget.engine.generation import _AHEAD, _MANY
from mlc_widget.proxy.stream_receiver import STREAM_CREDIT

from ..waiting import until, until_blocking

Make = Callable[..., Awaitable[AsyncKernelMLCEngine]]

HELLO = [{"role": "user", "content": "Hello!"}]
MIB = 1024 * 1024


def rss(engine: AsyncKernelMLCEngine) -> float:
    assert engine.worker_pid is not None
    return float(psutil.Process(engine.worker_pid).memory_info().rss / MIB)


async def test_a_generation_waits_for_its_reader(tiny_model: Path) -> None:
    core = DirectCore(runtime="scripted", runtime_options={"repeat": 10_000})
    await core.reload([str(tiny_model)])
    generation = await core.open_stream("chat", {"messages": HELLO})
    await until(lambda: generation.completion_tokens >= 16)
    for _ in range(1000):  # time enough for thousands of words
        await asyncio.sleep(0)
    assert generation.completion_tokens <= 64
    before = generation.completion_tokens
    await anext(generation)
    await until(lambda: generation.completion_tokens > before)
    await generation.aclose()
    assert (await core.metrics())["running_requests"] == 0
    await core.terminate()


async def test_a_reader_that_waits_for_a_batch_gets_a_large_one(tiny_model: Path) -> None:
    """A fast model's messages are few, though little is generated ahead of a busy reader."""
    core = DirectCore(runtime="scripted", runtime_options={"repeat": 10_000})
    await core.reload([str(tiny_model)])
    generation = await core.open_stream("chat", {"messages": HELLO}, gather_s=3600.0)
    await anext(generation)
    for _ in range(3):
        assert len(await anext(generation)) >= _MANY  # no timer of an hour ends it
    await until(lambda: len(generation._events) == _AHEAD)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert len(generation._events) == _AHEAD
    assert len(await anext(generation)) >= _MANY  # the choices that paused go on for it
    await generation.aclose()
    await core.terminate()


async def test_a_blocked_loop_loses_nothing(kernel_engine: Make) -> None:
    words = [f"w{i}" for i in range(4000)]
    engine = await kernel_engine(text=" ".join(words))
    stream = await engine.chat.completions.create(messages=HELLO, stream=True)
    text = ""
    async for chunk in stream:
        if not text:  # this loop stands still until all that may wait for it does
            until_blocking(lambda: len(stream._relay._pump.buffer) >= _CAPACITY)
        text += chunk.choices[0].delta.content or ""
    assert text == " ".join(words)


async def test_an_unread_stream_costs_bounded_memory(kernel_engine: Make) -> None:
    engine = await kernel_engine(text="x" * 2000, repeat=10**5)  # 200 MB, if nothing stopped it
    before = rss(engine)
    streams = [await engine.chat.completions.create(messages=HELLO, stream=True) for _ in range(4)]
    # The credit of all is used up, so nothing moves any more.
    for stream in streams:
        relay = stream._relay

        async def full(relay: Any = relay) -> bool:
            return len(relay._pump.buffer) >= _CAPACITY

        await until(full)
    # Beside them the engine answers others at once.
    answer = await engine.chat.completions.create(messages=HELLO, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert rss(engine) - before < 50
    for stream in streams:
        assert len(stream._relay._pump.buffer) <= 3 * STREAM_CREDIT
        await stream.aclose()

    async def idle() -> bool:
        return (await engine.metrics())["running_requests"] == 0

    await until(idle)


_SECOND_CLIENT = """
import asyncio, sys
from jupyter_client.asynchronous.client import AsyncKernelClient
from mlc_widget.proxy.connection import WorkerConnection
import zmq

async def main():
    client = AsyncKernelClient(connection_file=sys.argv[1])
    client.load_connection_file()
    shell, iopub = client.connect_shell(), client.connect_iopub()
    iopub.setsockopt(zmq.UNSUBSCRIBE, b"")
    connection = WorkerConnection(shell, iopub, client.session, lambda report: None)
    await connection.open(timeout=60)
    hello = [{"role": "user", "content": "Hello!"}]
    request = {"request": {"messages": hello}}
    streams = [await connection.open_stream("chatCompletionStreamInit", request) for _ in range(8)]
    for stream in streams:
        asyncio.ensure_future(drain(stream))
    await asyncio.sleep(3600)

async def drain(stream):
    seen = 0
    async for batch in stream:
        seen += len(batch)
        if seen > 5000:
            print("reading", flush=True)
            seen = 0

asyncio.run(main())
"""


async def test_a_stopped_client_does_not_stall_another(
    kernel_engine: Make, tiny_model: Path
) -> None:
    engine = await kernel_engine(text="x" * 500, repeat=10**6)
    connection_file = engine._core._supervisor._process._manager.connection_file  # type: ignore[union-attr]
    second = subprocess.Popen(
        [sys.executable, "-c", _SECOND_CLIENT, connection_file], stdout=subprocess.PIPE
    )
    try:
        assert second.stdout is not None
        assert await asyncio.to_thread(second.stdout.readline) == b"reading\n"
        second.send_signal(signal.SIGSTOP)
        before = rss(engine)
        for _ in range(2):
            seen = 0
            async for _chunk in await engine.chat.completions.create(
                messages=HELLO, stream=True, max_tokens=5000
            ):
                seen += 1
            assert seen == 5001
        # Its credit bounds what waits for it: eight streams of as many chunks.
        assert rss(engine) - before < 60
        metrics = await engine.metrics()
        assert metrics["running_requests"] == 8
        second.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(second.stdout.readline) == b"reading\n"
    finally:
        second.kill()
        await asyncio.to_thread(second.wait)
        second.stdout.close()  # type: ignore[union-attr]
