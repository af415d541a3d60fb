"""The kernel engine on a real worker kernel: answers, streams, and how they end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from mlc_widget import AsyncKernelMLCEngine, InitProgressReport
from mlc_widget.api.errors import (
    BadRequestError,
    EngineDeadError,
    EngineTerminatedError,
    InternalEngineError,
    MLCEngineError,
    ModelNotLoadedError,
)

from ..waiting import until

Make = Callable[..., Awaitable[AsyncKernelMLCEngine]]

HELLO = [{"role": "user", "content": "Hello!"}]


@pytest.fixture(scope="module")
def slow_engine(tiny_model: Path) -> Iterator[AsyncKernelMLCEngine]:
    """Says four words again and again, one every 2 ms: what runs on it ends only when ended."""
    script = {"text": "one two three four", "repeat": 20_000, "pace_s": 0.002}
    engine = AsyncKernelMLCEngine(runtime="scripted", runtime_options=script)
    asyncio.run(engine.reload(str(tiny_model)))
    yield engine
    asyncio.run(engine.terminate())


async def running(engine: AsyncKernelMLCEngine) -> int:
    return int((await engine.metrics())["running_requests"])


@pytest.fixture
def comes_to_rest() -> Callable[[AsyncKernelMLCEngine], Awaitable[None]]:
    """Waits until the engine in the worker runs nothing."""

    async def wait(engine: AsyncKernelMLCEngine) -> None:
        async def idle() -> bool:
            return await running(engine) == 0

        await until(idle)

    return wait


Rest = Callable[[AsyncKernelMLCEngine], Awaitable[None]]


async def test_answers_with_openai_types(kernel_engine: Make) -> None:
    engine = await kernel_engine(repeat=2)
    answer = await engine.chat.completions.create(messages=HELLO)
    assert type(answer) is ChatCompletion
    assert answer.choices[0].message.content == "Hello from the script. Hello from the script."
    assert answer.choices[0].finish_reason == "stop"
    assert type(answer.usage) is CompletionUsage
    assert answer.usage.completion_tokens == 8
    assert await engine.get_message() == answer.choices[0].message.content
    assert [m.id for m in await engine.models.list()] == [answer.model]


async def test_streams_openai_chunks(kernel_engine: Make) -> None:
    engine = await kernel_engine(repeat=2, pace_s=0.001)
    stream = await engine.chat.completions.create(
        messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert all(type(c) is ChatCompletionChunk for c in chunks)
    assert len({c.id for c in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Hello from the script. Hello from the script."
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * 8 + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
    assert await running(engine) == 0


async def test_progress_rises_to_one_before_reload_returns(
    kernel_engine: Make, tiny_model: Path
) -> None:
    engine = await kernel_engine(load=False, load_s=1.0)
    reports: list[InitProgressReport] = []
    engine.set_init_progress_callback(reports.append)
    await engine.reload(str(tiny_model))
    progress = [r.progress for r in reports]
    assert progress == sorted(progress)
    assert progress[0] == 0.0
    assert progress[-1] == 1.0
    assert len(progress) >= 10
    assert {r.model_id for r in reports} == {str(tiny_model)}
    assert {r.phase for r in reports} == {"resolve", "load", "warm up"}
    loading = [r for r in reports if r.phase == "load"]
    assert loading[-1].bytes_done == loading[-1].bytes_total == 20_000_000
    assert any((r.bytes_per_s or 0) > 0 for r in loading)
    elapsed = [r.time_elapsed for r in reports]
    assert elapsed == sorted(elapsed)


async def test_break_stops_the_engine(
    slow_engine: AsyncKernelMLCEngine, comes_to_rest: Rest
) -> None:
    async for chunk in await slow_engine.chat.completions.create(messages=HELLO, stream=True):
        assert chunk.choices[0].delta.content == "one"
        assert await running(slow_engine) == 1
        break
    await comes_to_rest(slow_engine)


async def test_aclose_returns_when_the_stream_is_over(
    slow_engine: AsyncKernelMLCEngine, comes_to_rest: Rest
) -> None:
    stream = await slow_engine.chat.completions.create(messages=HELLO, stream=True)
    await anext(stream)
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()
    await comes_to_rest(slow_engine)


async def test_async_with_closes_the_stream(
    slow_engine: AsyncKernelMLCEngine, comes_to_rest: Rest
) -> None:
    async def consume() -> None:
        async with await slow_engine.chat.completions.create(messages=HELLO, stream=True) as stream:
            async for _ in stream:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await consume()
    await comes_to_rest(slow_engine)


async def test_cancelling_a_consumer_stops_the_engine(
    slow_engine: AsyncKernelMLCEngine, comes_to_rest: Rest
) -> None:
    begun = asyncio.Event()

    async def consume() -> None:
        async for _ in await slow_engine.chat.completions.create(messages=HELLO, stream=True):
            begun.set()

    task = asyncio.create_task(consume())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await comes_to_rest(slow_engine)


async def test_cancelling_a_whole_request_stops_the_engine(
    slow_engine: AsyncKernelMLCEngine, comes_to_rest: Rest
) -> None:
    task = asyncio.create_task(slow_engine.chat.completions.create(messages=HELLO))
    await until(lambda: running(slow_engine))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await comes_to_rest(slow_engine)


async def test_garbage_collection_stops_the_engine(
    slow_engine: AsyncKernelMLCEngine, comes_to_rest: Rest
) -> None:
    stream = await slow_engine.chat.completions.create(messages=HELLO, stream=True)
    await until(lambda: running(slow_engine))
    del stream
    gc.collect()
    await comes_to_rest(slow_engine)


async def test_a_stream_that_nobody_ever_read_is_collected_too(
    slow_engine: AsyncKernelMLCEngine, comes_to_rest: Rest
) -> None:
    await slow_engine.chat.completions.create(messages=HELLO, stream=True)
    gc.collect()
    await comes_to_rest(slow_engine)


async def test_interrupt_ends_what_runs_and_nothing_after_it(
    slow_engine: AsyncKernelMLCEngine, comes_to_rest: Rest
) -> None:
    stream = await slow_engine.chat.completions.create(messages=HELLO, stream=True)
    whole = asyncio.create_task(slow_engine.chat.completions.create(messages=HELLO))

    async def both() -> bool:
        return await running(slow_engine) == 2

    await until(both)
    await slow_engine.interrupt_generate()
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason == "abort"
    answer = await whole
    assert answer.choices[0].finish_reason == "abort"
    assert " ".join(["one two three four"] * 1000).startswith(
        answer.choices[0].message.content or ""
    )
    # WebLLM's stale flag: an interrupt with nothing to interrupt must not empty the next answer.
    await slow_engine.interrupt_generate()
    answer = await slow_engine.chat.completions.create(messages=HELLO, max_tokens=3)
    assert answer.choices[0].message.content == "one two three"
    assert answer.choices[0].finish_reason == "length"


async def test_abort_ends_one_request_by_its_id(slow_engine: AsyncKernelMLCEngine) -> None:
    one = await slow_engine.chat.completions.create(messages=HELLO, stream=True, request_id="one")
    two = await slow_engine.chat.completions.create(
        messages=HELLO, stream=True, request_id="two", max_tokens=200
    )
    await slow_engine.abort("one")
    await slow_engine.abort("no such request")
    assert [c async for c in one][-1].choices[0].finish_reason == "abort"
    assert [c async for c in two][-1].choices[0].finish_reason == "length"


async def test_two_streams_at_once_share_the_engine(slow_engine: AsyncKernelMLCEngine) -> None:
    create = slow_engine.chat.completions.create
    first, second = [await create(messages=HELLO, stream=True) for _ in range(2)]
    texts = ["", ""]
    for _ in range(100):  # neither waits for the other to be read
        for i, stream in enumerate((second, first)):
            texts[i] += (await anext(stream)).choices[0].delta.content or ""
    assert texts[0] == texts[1] == " ".join(["one two three four"] * 25)
    await first.aclose()
    await second.aclose()


async def test_what_is_asked_and_sent_is_counted(slow_engine: AsyncKernelMLCEngine) -> None:
    before = await slow_engine.statistics()
    assert (before.worker_starts, before.worker_restarts, before.other_clients) == (1, 0, None)
    async with asyncio.timeout(60):
        stream = await slow_engine.chat.completions.create(messages=HELLO, stream=True)
        whole = asyncio.create_task(slow_engine.chat.completions.create(messages=HELLO))
        await anext(stream)

        async def both_run() -> bool:
            now = await slow_engine.statistics()
            return (now.running_requests, now.waiting_requests, now.open_streams) == (2, 0, 1)

        await until(both_run)
        await slow_engine.interrupt_generate()
        await whole
        await stream.close()
    after = await slow_engine.statistics()
    assert (after.running_requests, after.open_streams) == (0, 0)
    assert after.bytes_sent is not None
    assert after.bytes_received is not None
    assert after.bytes_sent > (before.bytes_sent or 0) + len("Hello!")
    assert after.bytes_received > (before.bytes_received or 0)


async def test_an_error_in_the_middle_reaches_the_reader(kernel_engine: Make) -> None:
    engine = await kernel_engine(fail_after=2)
    stream = aiter(await engine.chat.completions.create(messages=HELLO, stream=True))
    first = await anext(stream)
    assert first.choices[0].delta.content == "Hello"
    assert (await anext(stream)).choices[0].delta.content == " from"
    with pytest.raises(InternalEngineError, match="fails after 2 pieces") as caught:
        await anext(stream)
    assert caught.value.request_id == first.id
    assert "in _misbehave" in str(caught.value.__cause__), "the remote traceback is the cause"
    with pytest.raises(InternalEngineError, match="fails after 2 pieces") as whole:
        await engine.chat.completions.create(messages=HELLO, request_id="mine")
    assert whole.value.request_id == "mine"


async def test_a_bad_request_is_refused_before_anything_starts(
    slow_engine: AsyncKernelMLCEngine,
) -> None:
    before = (await slow_engine.metrics())["finished_requests"]
    with pytest.raises(BadRequestError, match=r"temperature = 5") as caught:
        await slow_engine.chat.completions.create(messages=HELLO, temperature=5)
    assert caught.value.param == "temperature"
    with pytest.raises(BadRequestError, match="messages") as caught:
        await slow_engine.chat.completions.create(messages=HELLO * 2000, stream=True)
    assert caught.value.code == "context_length_exceeded"
    assert (await slow_engine.metrics())["finished_requests"] == before


async def test_before_reload_and_after_unload_there_is_no_model(
    kernel_engine: Make, tiny_model: Path
) -> None:
    engine = await kernel_engine(load=False)
    with pytest.raises(ModelNotLoadedError, match="reload"):
        await engine.chat.completions.create(messages=HELLO)
    nothing = await engine.metrics()
    assert (await engine.statistics()).known().keys() >= {"worker_starts", "bytes_sent"}
    assert engine.worker_pid is None, "a worker was started for nothing"
    await engine.reload(str(tiny_model))
    assert await engine.metrics() == nothing
    assert (await engine.statistics()).worker_starts == 1
    await engine.unload()
    assert engine.state == "idle"
    assert await engine.models.list() == []
    with pytest.raises(ModelNotLoadedError, match="reload"):
        await engine.chat.completions.create(messages=HELLO)


async def test_after_terminate_every_call_says_so(kernel_engine: Make) -> None:
    engine = await kernel_engine(repeat=1000, pace_s=0.01)
    stream = await engine.chat.completions.create(messages=HELLO, stream=True)
    whole = asyncio.create_task(engine.chat.completions.create(messages=HELLO))
    await anext(stream)
    await engine.terminate()
    await engine.terminate()
    assert engine.state == "terminated"
    assert engine.worker_pid is None
    with pytest.raises(EngineTerminatedError):
        await whole
    for call in (
        lambda: engine.chat.completions.create(messages=HELLO),
        lambda: engine.reload("demo"),
        engine.unload,
        engine.metrics,
        engine.device_info,
        engine.interrupt_generate,
    ):
        with pytest.raises(EngineTerminatedError):
            await call()


async def test_an_engine_that_is_dropped_ends_its_worker(tiny_model: Path) -> None:
    engine = AsyncKernelMLCEngine(runtime="scripted")
    await engine.reload(str(tiny_model))
    pid = engine.worker_pid
    assert pid is not None
    del engine
    gc.collect()

    async def gone() -> bool:
        return not psutil.pid_exists(pid)

    await until(gone)


async def test_one_engine_serves_several_loops(slow_engine: AsyncKernelMLCEngine) -> None:
    async def ask() -> str | None:
        answer = await slow_engine.chat.completions.create(messages=HELLO, max_tokens=2)
        return answer.choices[0].message.content

    there = asyncio.to_thread(lambda: asyncio.run(ask()))
    assert await asyncio.gather(ask(), there) == ["one two", "one two"]


async def test_the_log_tells_of_errors_and_deaths_but_no_texts(kernel_engine: Make) -> None:
    canary = "canary"

    async def heard() -> bool:
        return any(
            (one.side, one.request_id) == ("worker", "r1")
            and one.message == "A request failed: UnsupportedFieldError"
            for one in await engine.logs()
        )

    engine = await kernel_engine(text=f"{canary} says more", crash_after=2, crash_if="again")
    assert [record.message for record in (await engine.logs())[:1]] == [
        "The engine's state: starting."
    ]
    message = {"role": "user", "content": f"{canary}, once more"}
    schema = {"type": "json_schema", "json_schema": {"name": canary, "schema": {"type": canary}}}
    for number, wrong in enumerate(
        [
            {"temperature": 5},  # refused at once, on this side
            {"response_format": schema},
            {"messages": [{"role": canary, "content": canary}]},
            {"tools": [{"type": "function", "function": {"name": f"{canary} ?"}}]},
            {"stream": True, "model": canary},
        ]
    ):
        request: dict[str, Any] = {"messages": [message], "request_id": f"r{number}", **wrong}
        with pytest.raises(MLCEngineError):
            await engine.chat.completions.create(**request)
    await until(heard)
    with pytest.raises(MLCEngineError):
        await engine.reload(canary)
    pid = engine.worker_pid
    message = {"role": "user", "content": f"{canary} again"}
    with pytest.raises(EngineDeadError):
        async for _ in await engine.chat.completions.create(
            messages=[message], stream=True, request_id="deadly"
        ):
            pass

    records = await engine.logs()
    assert canary not in "".join(map(repr, records)) + "".join(map(str, records))
    said = [(one.level, one.message) for one in records if one.side == "notebook"]
    assert ("INFO", f"Worker 1 is up (process {pid}).") in said
    assert [m for level, m in said if level == "ERROR"] == [
        f"Worker {n}: The worker was killed by SIGKILL (9)." for n in (1, 2)
    ]
    assert {one.request_id for one in records} >= {"r1", "r4", "deadly"}
    await engine.terminate()
    assert (await engine.logs())[-1].message == "The engine's state: terminated."
