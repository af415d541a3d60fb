"""After a worker's death, its requests are resumed in another worker."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mlc_widget import AsyncKernelMLCEngine, KernelMLCEngine, create_kernel_mlc_engine
from mlc_widget.api.errors import BadRequestError, EngineDeadError, EngineTerminatedError
from mlc_widget.api.streams import _CAPACITY

from ..kinds import but_for_soak
from ..waiting import until, until_blocking
from .conftest import GatedModel, SharedGatedModel

pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")

Make = Callable[..., Awaitable[AsyncKernelMLCEngine]]

DEADLINE_S = 60.0
ENCODER = Path(__file__).parents[1] / "fixtures" / "embeddings" / "bert"
HELLO = [{"role": "user", "content": "Hello!"}]
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Oslo"]}, "days": {"enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}
REQUESTS: dict[str, dict[str, Any]] = {
    "choices": {"n": 2, "max_tokens": 64},
    "penalties": {"max_tokens": 64, "frequency_penalty": 1.5, "logit_bias": {70: 4, 71: 4}},
    "schema": {"max_tokens": 64, "response_format": {"type": "json_object", "schema": CITY}},
    "tools": {"max_tokens": 90, "tools": [TOOL], "tool_choice": "required"},
    "stop": {"max_tokens": 90, "logit_bias": {70: 40, 71: 40, 72: 40}, "stop": "edd"},
    "logprobs": {"max_tokens": 64, "logprobs": True, "top_logprobs": 2},
    "completion": {"prompt": "hello world", "max_tokens": 64, "echo": True},
}
INDEXES = [pytest.param(at, marks=() if at == 13 else pytest.mark.soak) for at in range(64)]
"""After how many tokens the worker dies."""


def kill(engine: AsyncKernelMLCEngine | KernelMLCEngine) -> None:
    assert engine.worker_pid is not None
    os.kill(engine.worker_pid, signal.SIGKILL)


async def kill_and_see(engine: AsyncKernelMLCEngine) -> None:
    """Wait until the engine has noticed; another worker may be starting then."""
    pid = engine.worker_pid
    kill(engine)
    await until(lambda: engine.worker_pid != pid)


async def restart(engine: AsyncKernelMLCEngine) -> None:
    await asyncio.wrap_future(engine._core.submit(engine._core.restart()))


def seeded(request: dict[str, Any]) -> dict[str, Any]:
    return {"seed": 7, "temperature": 1, "ignore_eos": True, **request}


def ask(engine: Any, request: dict[str, Any]) -> Any:
    """`create` for the request."""
    if "prompt" in request:
        return engine.completions.create(**seeded(request))
    return engine.chat.completions.create(**seeded({"messages": HELLO, **request}))


class Received:
    """Collects what the reader of a stream gets."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.created: set[int] = set()
        self.choices: dict[int, list[Any]] = {}
        self.usage: Any = None
        self.resumed: list[Any] = []
        self.chunks = 0

    def take(self, chunk: Any) -> None:
        self.chunks += 1
        self.ids.add(chunk.id)
        self.created.add(chunk.created)
        assert not hasattr(chunk, "journal")
        if hasattr(chunk, "resumed"):
            self.resumed.append(chunk.resumed)
        for choice in chunk.choices:
            self.choices.setdefault(choice.index, []).append(choice.model_dump())
        if chunk.usage is not None:
            self.usage = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)


async def read(engine: AsyncKernelMLCEngine, request: dict[str, Any]) -> Received:
    received = Received()
    wanted = {**request, "stream": True, "stream_options": {"include_usage": True}}
    async for chunk in await ask(engine, wanted):
        received.take(chunk)
    assert len(received.ids) == len(received.created) == 1
    return received


def same(received: Received, other: Received) -> None:
    assert received.choices == other.choices
    assert received.usage == other.usage


@pytest.mark.parametrize("at", INDEXES)
async def test_everything_in_flight_goes_on(shared_gated: SharedGatedModel, at: int) -> None:
    engine = await shared_gated.engine()
    requests = {name: {**r, "request_id": name} for name, r in REQUESTS.items()}
    expected = {name: await read(engine, r) for name, r in requests.items()}
    answer = await ask(engine, REQUESTS["choices"])
    pid = engine.worker_pid
    before = await engine.statistics()

    shared_gated.hold(at)
    whole = asyncio.create_task(ask(engine, REQUESTS["choices"]))
    streams = {name: asyncio.create_task(read(engine, r)) for name, r in requests.items()}
    await shared_gated.until_held()
    kill(engine)
    shared_gated.release()
    for name, stream in streams.items():
        received = await stream
        same(received, expected[name])
        assert len(received.resumed) <= 1
        assert all(r["exact"] and r["tokens"] <= 2 * at for r in received.resumed)
    again = await whole
    assert again.choices == answer.choices
    assert again.usage.completion_tokens == answer.usage.completion_tokens
    assert engine.worker_pid != pid
    statistics = await engine.statistics()
    assert statistics.worker_starts == before.worker_starts + 1
    assert statistics.worker_restarts == before.worker_restarts + 1
    assert statistics.running_requests == 0
    assert engine.state == "ready"


async def test_what_was_sent_is_read_before_what_comes_from_the_new_worker(
    shared_gated: SharedGatedModel,
) -> None:
    """Two readers, of which one is slow: its text is there, and goes on when it reads."""
    engine = await shared_gated.engine()
    request = {"max_tokens": 1200}
    expected = await read(engine, request)
    request |= {"stream": True, "stream_options": {"include_usage": True}}
    shared_gated.hold(0)  # or the one would be done before the other begins
    slow, quick = await ask(engine, request), await ask(engine, request)
    shared_gated.hold(600)

    async def full() -> bool:  # what the reader reads from
        return all(len(s._relay._pump.buffer) >= _CAPACITY for s in (slow, quick))

    await until(full)
    shared_gated.hold(1000)

    async def sent() -> bool:
        return all(s._relay._pump._source._stream._batches for s in (slow, quick))

    await until(sent)
    await kill_and_see(engine)
    assert engine.state == "dead"  # nobody needs a worker yet
    shared_gated.release()
    for stream in (quick, slow):
        received = Received()
        async for chunk in stream:
            received.take(chunk)
        same(received, expected)
        [marker] = received.resumed
        assert 256 < marker["tokens"] <= 1000


async def test_the_death_of_the_engines_thread_is_one_of_the_worker(
    shared_gated: SharedGatedModel,
) -> None:
    engine = await shared_gated.engine()
    expected = await read(engine, {"max_tokens": 40})
    errors: list[str] = []
    stop = engine._core.observe(lambda s: errors.append(str(s.error)))
    shared_gated.hold(12)
    reading = asyncio.create_task(read(engine, {"max_tokens": 40}))
    await shared_gated.until_held()
    (shared_gated.folder / "die").touch()
    shared_gated.release()
    same(await reading, expected)
    stop()
    assert any("engine's thread died: SystemExit: the gate fell" in e for e in errors)


async def test_without_a_seed_it_is_one_text(shared_gated: SharedGatedModel) -> None:
    """Its beginning, which the reader has, and its end come from the same numbers."""
    engine = await shared_gated.engine()
    shared_gated.hold(12)
    reading = asyncio.create_task(read(engine, {"max_tokens": 40, "seed": None}))
    await shared_gated.until_held()
    [in_flight] = engine._core._in_flight_requests._active
    kill(engine)
    shared_gated.release()
    received = await reading
    same(received, await read(engine, {"max_tokens": 40, "seed": in_flight.request["seed"]}))
    another = await read(engine, {"max_tokens": 40, "seed": None})
    assert another.choices != received.choices


def test_a_blocking_reader_goes_on_too(gated: GatedModel, tiny_model: Path) -> None:
    with KernelMLCEngine(runtime="tvm", **gated.arguments) as engine:
        engine.reload(str(tiny_model))
        expected = [
            c.choices[0].delta.content for c in ask(engine, {"max_tokens": 30, "stream": True})
        ]
        gated.hold(10)

        def murder() -> None:
            until_blocking(lambda: gated.held)
            kill(engine)
            gated.release()

        murderer = threading.Thread(target=murder)
        murderer.start()
        text = [c.choices[0].delta.content for c in ask(engine, {"max_tokens": 30, "stream": True})]
        murderer.join()
        assert text == expected


@pytest.mark.soak  # below, others end at a second death: of what kills, and of what is restarted
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_second_death_ends_it(gated: GatedModel, stream: bool) -> None:
    engine = await gated.engine()
    gated.hold(5)
    if stream:
        asking = asyncio.create_task(read(engine, {"max_tokens": 40}))
    else:
        asking = asyncio.create_task(ask(engine, {"max_tokens": 40}))
    await gated.until_held()
    await kill_and_see(engine)
    gated.hold(5)
    await gated.until_held()
    kill(engine)
    with pytest.raises(EngineDeadError, match=r"SIGKILL(.|\n)*Two workers died"):
        await asking
    gated.release()
    answer = await ask(engine, {"max_tokens": 2})  # others are served
    assert answer.usage.completion_tokens == 2


def poison(engine: AsyncKernelMLCEngine, **fields: Any) -> Any:
    messages = [{"role": "user", "content": "Take the poison."}]
    return engine.chat.completions.create(messages=messages, **fields)


async def whole(engine: AsyncKernelMLCEngine) -> str:
    answer = await engine.chat.completions.create(messages=HELLO)
    return str(answer.choices[0].message.content)


async def streamed(engine: AsyncKernelMLCEngine) -> str:
    stream = await engine.chat.completions.create(messages=HELLO, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def slowly_read(engine: AsyncKernelMLCEngine) -> str:
    """Read only once all the others are answered."""
    stream = await engine.chat.completions.create(messages=HELLO, stream=True)
    pieces = [(await anext(stream)).choices[0].delta.content or ""]
    await until(lambda: len(engine._core._in_flight_requests._active) <= 1)
    return "".join(pieces + [chunk.choices[0].delta.content or "" async for chunk in stream])


NEIGHBOURS = {
    "one": (0, [whole]),
    "several": (2, [whole, streamed, whole, streamed]),
    "a slow reader": (2, [slowly_read, whole]),
}


@pytest.mark.parametrize("neighbours", but_for_soak(NEIGHBOURS, "one", "a slow reader"))
async def test_the_neighbours_of_a_request_that_kills_are_answered(
    kernel_engine: Make, neighbours: str
) -> None:
    after, asks = NEIGHBOURS[neighbours]
    engine = await kernel_engine(crash_after=after, crash_if="poison", repeat=20, pace_s=0.005)
    tasks = [asyncio.create_task(ask(engine)) for ask in asks]
    await until(lambda: len(engine._core._in_flight_requests._active) == len(tasks))
    with pytest.raises(EngineDeadError, match=r"(Two|Three) workers died during this"):
        await poison(engine)
    text = " ".join(["Hello from the script."] * 20)
    assert {await task for task in tasks} == {text}
    assert await whole(engine) == text


@pytest.mark.soak
async def test_two_that_kill_do_not_take_their_neighbours_with_them(kernel_engine: Make) -> None:
    engine = await kernel_engine(crash_after=1, crash_if="poison", repeat=20, pace_s=0.005)
    killers = [asyncio.create_task(poison(engine)) for _ in range(2)]
    neighbours = [asyncio.create_task(ask(engine)) for ask in (whole, streamed)]
    for killer in killers:
        with pytest.raises(EngineDeadError, match="workers died during this"):
            await killer
    assert {len(await task) for task in neighbours} == {22 * 20 + 19}


async def test_who_waits_for_a_turn_can_leave_and_be_aborted(kernel_engine: Make) -> None:
    engine = await kernel_engine(crash_after=40, crash_if="poison", repeat=50, pace_s=0.005)
    leaving, aborted = (
        asyncio.create_task(
            engine.chat.completions.create(messages=HELLO, request_id=name, max_tokens=190)
        )
        for name in ("leaving", "aborted")
    )
    pids: list[int | None] = []
    stop = engine._core.observe(lambda s: s.state == "dead" and pids.append(engine.worker_pid))
    with pytest.raises(EngineDeadError):
        killer = asyncio.create_task(poison(engine))
        await until(lambda: len(pids) >= 2)
        leaving.cancel()
        await engine.abort("aborted")
        await killer
    stop()
    assert (await aborted).choices[0].finish_reason == "abort"
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert not engine._core._in_flight_requests._active
    assert len(await whole(engine)) > 1000


@pytest.mark.parametrize(
    ("recovery", "ask"),
    [
        ("resume", streamed),
        pytest.param("error", whole, marks=pytest.mark.soak),
        pytest.param("resume", whole, marks=pytest.mark.soak),
        pytest.param("error", streamed, marks=pytest.mark.soak),
    ],
)
async def test_deaths_in_a_row_are_those_since_the_last_answer(
    kernel_engine: Make, recovery: str, ask: Callable[..., Awaitable[str]]
) -> None:
    engine = await kernel_engine(recovery=recovery, crash_after=0, crash_if="poison")
    with pytest.raises(EngineDeadError, match="SIGKILL"):
        await poison(engine)
    assert engine._core._supervisor._deaths > 0
    await ask(engine)
    assert engine._core._supervisor._deaths == 0


@pytest.mark.soak  # test_worker_life.py has it without recovery
async def test_a_worker_that_always_dies_is_given_up(kernel_engine: Make, tiny_model: Path) -> None:
    engine = await kernel_engine(crash_after=0)
    for _ in range(3):
        with pytest.raises(EngineDeadError, match="SIGKILL"):
            await whole(engine)
    with pytest.raises(EngineDeadError, match="times in a row"):
        await whole(engine)
    await engine.reload(str(tiny_model))
    assert engine.state == "ready"


async def anext_until_the_end(stream: Any) -> None:
    async for _ in stream:
        pass


async def test_a_request_that_kills_cannot_kill_for_ever(kernel_engine: Make) -> None:
    engine = await kernel_engine(crash_after=3)
    pids = {engine.worker_pid}
    stop = engine._core.observe(lambda _: pids.add(engine.worker_pid))
    text = ""
    with pytest.raises(EngineDeadError, match="Two workers died"):
        async for chunk in await engine.chat.completions.create(messages=HELLO, stream=True):
            text += chunk.choices[0].delta.content or ""
    stop()
    assert "Hello from the".startswith(text)
    assert len(pids - {None}) == 2


async def test_a_death_while_restoring_is_the_second(
    shared_gated: SharedGatedModel, tmp_path: Path
) -> None:
    engine = await shared_gated.engine()
    shared_gated.hold(5)
    reading = asyncio.create_task(read(engine, {"max_tokens": 40}))
    await shared_gated.until_held()
    seen: list[str] = []

    def kill_the_next(snapshot: Any) -> None:
        if snapshot.state == "loading" and "loading" not in seen:
            kill(engine)
        seen.append(snapshot.state)

    stop = engine._core.observe(kill_the_next)
    kill(engine)
    with pytest.raises(EngineDeadError, match=r"could not be resumed: (.|\n)*SIGKILL"):
        await reading
    stop()
    assert "loading" in seen
    assert engine.state == "dead"


async def test_a_model_that_is_gone_says_so(
    shared_gated: SharedGatedModel, tiny_model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "gone"))
    engine = await shared_gated.engine()
    await engine.reload(str(folder))
    shared_gated.hold(5)
    reading = asyncio.create_task(read(engine, {"max_tokens": 40}))
    await shared_gated.until_held()
    shutil.rmtree(folder)
    kill(engine)
    with pytest.raises(EngineDeadError, match=r"could not be resumed: (.|\n)*gone"):
        await reading


async def test_embeddings_are_asked_for_again(kernel_engine: Make, cache_dir: Path) -> None:
    options = {"cache_dir": str(cache_dir)}  # tests/engine compile it, too
    engine = await kernel_engine(load=False, runtime="tvm", runtime_options=options)
    await engine.reload(str(ENCODER))
    expected = await engine.embeddings.create(input=["rain", "sun"])
    assert engine.worker_pid is not None
    os.kill(engine.worker_pid, signal.SIGSTOP)
    asking = asyncio.create_task(engine.embeddings.create(input=["rain", "sun"]))

    async def sent() -> bool:
        return any(in_flight.began for in_flight in engine._core._in_flight_requests._active)

    await until(sent)
    kill(engine)
    assert (await asking).data == expected.data


async def test_a_raw_context_is_not_taken_up(shared_gated: SharedGatedModel) -> None:
    engine = await shared_gated.engine()
    shared_gated.hold(0)
    forward = asyncio.create_task(engine.forward_tokens_and_sample([70, 71]))
    await shared_gated.until_held()
    kill(engine)
    with pytest.raises(EngineDeadError, match="SIGKILL"):
        await forward
    assert engine.state == "dead"


async def test_who_leaves_in_the_gap_is_not_served(shared_gated: SharedGatedModel) -> None:
    engine = await shared_gated.engine()
    shared_gated.hold(5)
    stream = await ask(engine, {"max_tokens": 40, "stream": True})
    reading = asyncio.create_task(anext_until_the_end(stream))
    whole = asyncio.create_task(ask(engine, {"max_tokens": 40}))
    unread = await ask(engine, {"max_tokens": 40, "stream": True})
    await shared_gated.until_held()
    await kill_and_see(engine)
    shared_gated.hold(0)
    await stream.aclose()
    await unread.aclose()
    whole.cancel()
    with pytest.raises(asyncio.CancelledError):
        await whole
    await reading
    other = asyncio.create_task(ask(engine, {"max_tokens": 2}))
    await shared_gated.until_held()  # by the only request that there is
    assert (await engine.metrics())["running_requests"] == 1
    shared_gated.release()
    assert (await other).usage.completion_tokens == 2
    assert not engine._core._in_flight_requests._active


async def test_an_abort_in_the_gap_ends_it_in_the_new_worker(
    shared_gated: SharedGatedModel,
) -> None:
    engine = await shared_gated.engine()
    shared_gated.hold(5)
    reading = asyncio.create_task(read(engine, {"max_tokens": 500, "n": 2}))
    whole = asyncio.create_task(ask(engine, {"max_tokens": 500, "request_id": "mine"}))
    await shared_gated.until_held()
    await kill_and_see(engine)
    await engine.abort("mine")
    await engine.interrupt_generate()
    shared_gated.release()
    received, answer = await reading, await whole
    assert {chunks[-1]["finish_reason"] for chunks in received.choices.values()} == {"abort"}
    assert received.usage[1] < 2 * 500  # of both choices
    assert answer.choices[0].finish_reason == "abort"


@pytest.mark.parametrize("by_id", [True, pytest.param(False, marks=pytest.mark.soak)])
async def test_an_abort_that_a_dying_worker_does_not_answer_is_no_error(
    shared_gated: SharedGatedModel, by_id: bool
) -> None:
    engine = await shared_gated.engine()
    shared_gated.hold(5)
    reading = asyncio.create_task(read(engine, {"max_tokens": 40, "request_id": "mine"}))
    await shared_gated.until_held()
    assert engine.worker_pid is not None
    os.kill(engine.worker_pid, signal.SIGSTOP)
    ending = asyncio.create_task(engine.abort("mine") if by_id else engine.interrupt_generate())
    await until(lambda: all(f.aborted for f in engine._core._in_flight_requests._active))
    kill(engine)
    shared_gated.release()
    await ending
    [last] = (await reading).choices.values()
    assert last[-1]["finish_reason"] == "abort"


async def test_what_the_user_restarts_goes_on_once(shared_gated: SharedGatedModel) -> None:
    engine = await shared_gated.engine()
    expected = await read(engine, {"max_tokens": 40})
    shared_gated.hold(5)
    reading = asyncio.create_task(read(engine, {"max_tokens": 40}))
    await shared_gated.until_held()
    shared_gated.release()
    await restart(engine)
    same(await reading, expected)
    shared_gated.hold(5)
    reading = asyncio.create_task(read(engine, {"max_tokens": 40}))
    await shared_gated.until_held()
    shared_gated.hold(5)
    await restart(engine)
    await shared_gated.until_held()
    await restart(engine)
    with pytest.raises(EngineDeadError, match=r"restarted(.|\n)*Two workers died"):
        await reading


async def test_with_recovery_error_a_restart_ends_what_runs(gated: GatedModel) -> None:
    engine = await gated.engine(recovery="error")
    gated.hold(5)  # or it could be at the end before the restart
    reading = asyncio.create_task(read(engine, {"max_tokens": 40}))
    await gated.until_held()
    await restart(engine)
    gated.release()
    with pytest.raises(EngineDeadError, match="restarted"):
        await reading


async def test_terminate_in_the_gap(gated: GatedModel) -> None:
    engine = await gated.engine()
    gated.hold(5)
    reading = asyncio.create_task(read(engine, {"max_tokens": 40}))
    await gated.until_held()
    await kill_and_see(engine)
    await engine.terminate()
    with pytest.raises(EngineTerminatedError):
        await reading


async def test_another_model_does_not_go_on_with_it(
    shared_gated: SharedGatedModel, other_tiny_model: Path
) -> None:
    engine = await shared_gated.engine()
    shared_gated.hold(5)
    stream = await ask(engine, {"max_tokens": 400, "stream": True})
    await shared_gated.until_held()
    await kill_and_see(engine)
    shared_gated.release()
    await engine.reload(str(other_tiny_model))
    with pytest.raises(EngineDeadError, match="could not be resumed"):
        await anext_until_the_end(stream)


async def test_recovery_is_checked(tiny_model: Path) -> None:
    for make in (AsyncKernelMLCEngine, KernelMLCEngine):
        with pytest.raises(BadRequestError, match="recovery = 'maybe'") as caught:
            make(recovery="maybe")  # type: ignore[arg-type]
        assert caught.value.param == "recovery"
    with pytest.raises(BadRequestError, match="recovery = None"):
        await create_kernel_mlc_engine(str(tiny_model), recovery=None)  # type: ignore[arg-type]
