"""Leaving a stream, in any way and at any moment, stops the engine's work on it and nothing else.

Each test leaves streams while a garbage collection is forced in the places where it once jammed
the engine: where messages are packed, sent and read. It then asks the engine again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlc_widget import AsyncKernelMLCEngine, AsyncMLCEngine
from mlc_widget.api.async_interface import AsyncMLCEngineInterface
from mlc_widget.api.resources import ChatCompletions

from ..waiting import until

REQUEST: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "Hello!"}],
    "stream": True,
}
SCRIPT: dict[str, Any] = {"text": "one two three ", "repeat": 2000}


@pytest.fixture(scope="module", params=["direct", "kernel"])
def engine(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[AsyncMLCEngineInterface]:
    cls = AsyncMLCEngine if request.param == "direct" else AsyncKernelMLCEngine
    engine: AsyncMLCEngineInterface = cls(runtime="scripted", runtime_options=SCRIPT)
    config = {"model_list": [{"model_id": "m", "model": str(tiny_model)}]}
    asyncio.run(engine.set_app_config(config))
    asyncio.run(engine.reload("m"))
    yield engine
    asyncio.run(engine.terminate())
    gc.unfreeze()  # what `collecting` froze


@pytest.fixture
def complaints(
    engine: AsyncMLCEngineInterface, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Any]]:
    """What Python, asyncio on the home loop, and warnings complain of; must stay empty."""
    found: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda u: found.append((u.exc_value, u.object)))
    monkeypatch.setattr(threading, "excepthook", lambda a: found.append(a.exc_value))
    engine._home.loop.set_exception_handler(lambda _, context: found.append(context))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        warnings.simplefilter("error", RuntimeWarning)
        yield found
        gc.collect()
    engine._home.loop.set_exception_handler(None)
    assert found == []


PLACES = ["serialize", "send_multipart", "deserialize"]


@contextlib.contextmanager
def collecting(engine: AsyncMLCEngineInterface, places: list[str]) -> Iterator[None]:
    """Force garbage collections in these places; in a direct engine, where chunks are handed on."""
    gc.collect()
    gc.freeze()  # so that each is quick; what the test makes from now on is collected
    with pytest.MonkeyPatch.context() as patch:

        def collect_around(owner: Any, name: str) -> None:
            call = getattr(owner, name)

            def collecting(*args: Any, **more: Any) -> Any:
                gc.collect()
                result = call(*args, **more)
                gc.collect()
                return result

            patch.setattr(owner, name, collecting)

        if isinstance(engine, AsyncKernelMLCEngine):
            worker = engine._core._supervisor.worker
            assert worker is not None
            connection = worker.connection
            for place in places:
                owner = connection._shell if place == "send_multipart" else connection._session
                collect_around(owner, place)
            if "send_multipart" in places:
                collect_around(connection._outbox, "_send")
        elif places:
            from mlc_widget.engine.generation import Generation

            collect_around(Generation, "__anext__")
            collect_around(Generation, "aclose")
        yield


class Holder:
    """Puts a stream into a reference cycle, so that only the garbage collector finds it."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.itself = self


async def unread(stream: Any) -> None:
    Holder(stream)


async def left_after_one(stream: Any) -> None:
    async for _ in stream:
        break
    Holder(stream)


async def iterator_left(stream: Any) -> None:
    iterator = aiter(stream)
    await anext(iterator)
    Holder(iterator)


async def generator_left(stream: Any) -> None:
    async def words() -> Any:
        async with stream:
            async for chunk in stream:
                yield chunk

    generator = words()
    await anext(generator)
    Holder(generator)


async def task_cancelled(stream: Any) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in stream:
            begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


ASYNC_WAYS = [unread, left_after_one, iterator_left, generator_left, task_cancelled]


def with_clients(ways: list[Any]) -> list[Any]:
    """Each way with each client; `make soak` runs every other pair."""
    return [
        pytest.param(
            client,
            way,
            id=f"{client}-{way.__name__}",
            marks=[] if (i + j) % 2 == 0 else pytest.mark.soak,
        )
        for i, way in enumerate(ways)
        for j, client in enumerate(["openai", "own"])
    ]


async def idle(engine: AsyncMLCEngineInterface) -> None:
    async def nothing_runs() -> bool:
        gc.collect()
        return (await engine.metrics())["running_requests"] == 0

    await until(nothing_runs)


async def still_answers(engine: AsyncMLCEngineInterface) -> None:
    async with asyncio.timeout(60):
        answer = await engine.chat.completions.create(messages=REQUEST["messages"], max_tokens=2)
        assert answer.choices[0].finish_reason == "length"
    await idle(engine)


def times(few: int, many: int) -> pytest.MarkDecorator:
    """How many streams each test leaves: few, and many in `make soak`."""
    return pytest.mark.parametrize("number", [few, pytest.param(many, marks=pytest.mark.soak)])


@times(2, 12)
@pytest.mark.parametrize(("client", "way"), with_clients(ASYNC_WAYS))
async def test_leaving_awaited_streams(
    engine: AsyncMLCEngineInterface,
    complaints: list[Any],
    client: str,
    way: Callable[[Any], Awaitable[None]],
    number: int,
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    made: Any = engine.openai_client() if client == "openai" else engine
    await still_answers(engine)  # so that what is imported for it is frozen
    with collecting(engine, PLACES):
        for _ in range(number):
            await way(await made.chat.completions.create(**REQUEST))
        await still_answers(engine)


def sync_unread(stream: Any) -> None:
    Holder(stream)


def sync_left_after_one(stream: Any) -> None:
    for _ in stream:
        break
    Holder(stream)


def sync_iterator_left(stream: Any) -> None:
    iterator = iter(stream)
    next(iterator)
    Holder(iterator)


def sync_generator_left(stream: Any) -> None:
    def words() -> Any:
        with stream:
            yield from stream

    generator = words()
    next(generator)
    Holder(generator)


SYNC_WAYS = [sync_unread, sync_left_after_one, sync_iterator_left, sync_generator_left]


@times(1, 12)
@pytest.mark.parametrize(("client", "way"), with_clients(SYNC_WAYS))
@pytest.mark.usefixtures("complaints")
async def test_leaving_blocking_streams(
    engine: AsyncMLCEngineInterface, client: str, way: Callable[[Any], None], number: int
) -> None:
    core, home = engine._core, engine._home
    made: Any = (
        engine.openai_client(sync=True).chat.completions
        if client == "openai"
        else ChatCompletions(core, home)
    )

    def leave() -> None:
        for _ in range(number):
            way(made.create(**REQUEST))

    await still_answers(engine)  # so that what is imported for it is frozen
    with collecting(engine, PLACES):
        # On two threads, so that one's finalisers run while the other is at work.
        await asyncio.gather(asyncio.to_thread(leave), asyncio.to_thread(leave))
        await still_answers(engine)


@times(30, 300)
@pytest.mark.usefixtures("complaints")
async def test_dozens_of_left_streams(engine: AsyncMLCEngineInterface, number: int) -> None:
    await leave_many(engine, number)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("complaints")
async def test_thousands_of_left_streams(engine: AsyncMLCEngineInterface) -> None:
    await leave_many(engine, 6000)


async def leave_many(engine: AsyncMLCEngineInterface, number: int) -> None:
    client = engine.openai_client()
    await still_answers(engine)
    with collecting(engine, []):
        for i in range(number):
            await ASYNC_WAYS[i % 4](await client.chat.completions.create(**REQUEST))
            if i % 30 == 29:  # else they are left faster than any engine stops them
                await idle(engine)
        await still_answers(engine)


async def test_streams_left_by_loops_that_are_gone(
    engine: AsyncMLCEngineInterface, complaints: list[Any]
) -> None:
    """`asyncio.run` in a thread, as scripts and some libraries have it."""
    left: list[Any] = []

    async def begin(keep: bool) -> None:
        stream = await engine.openai_client().chat.completions.create(**REQUEST)
        await anext(aiter(stream))
        if keep:
            left.append(stream)

    for keep in (True, False) * 3:
        await asyncio.to_thread(lambda keep=keep: asyncio.run(begin(keep)))
    left.clear()
    await still_answers(engine)


_EXIT = """
import asyncio, sys
from mlc_widget import AsyncKernelMLCEngine, AsyncMLCEngine
request = dict(model="m", messages=[{{"role": "user", "content": "Hello!"}}], stream=True)
async def main():
    global engine, streams
    engine = {engine}(runtime="scripted", runtime_options={script})
    await engine.set_app_config(
        {{"model_list": [{{"model_id": "m", "model": {model!r}}}]}})
    await engine.reload("m")
    client, blocking = engine.openai_client(), engine.openai_client(sync=True)
    streams = [await client.chat.completions.create(**request) for _ in range(5)]
    streams += [await engine.chat.completions.create(**request) for _ in range(5)]
    for stream in streams:
        await anext(aiter(stream))
    streams += [iter(blocking.chat.completions.create(**request)) for _ in range(5)]
    for stream in streams[-5:]:
        next(stream)
    streams.append(streams)
    print("left")
{end}
"""
_ENDS = {
    "asyncio.run": "asyncio.run(main())",
    "a collection at exit": "import atexit, gc\natexit.register(gc.collect)\nasyncio.run(main())",
    "an exception": "asyncio.run(main())\nraise SystemExit(0)",
}


@pytest.mark.parametrize(
    ("engine_class", "end"),
    [
        ("AsyncKernelMLCEngine", "a collection at exit"),
        # tests/engine/runtimes/tvm/test_exit.py has the exits of direct engines.
        pytest.param("AsyncMLCEngine", "an exception", marks=pytest.mark.soak),
        pytest.param("AsyncKernelMLCEngine", "asyncio.run", marks=pytest.mark.soak),
        pytest.param("AsyncKernelMLCEngine", "an exception", marks=pytest.mark.soak),
        pytest.param("AsyncMLCEngine", "asyncio.run", marks=pytest.mark.soak),
        pytest.param("AsyncMLCEngine", "a collection at exit", marks=pytest.mark.soak),
    ],
)
def test_streams_left_at_the_interpreters_exit(
    end: str, engine_class: str, tiny_model: Path
) -> None:
    code = _EXIT.format(engine=engine_class, script=SCRIPT, model=str(tiny_model), end=_ENDS[end])
    command = [sys.executable, "-W", "default::ResourceWarning", "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.stdout == "left\n"
    assert ran.stderr == ""
    assert ran.returncode == 0
