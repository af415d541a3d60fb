"""`timeout` and `max_retries` of OpenAI's clients hold, and what timed out stops in the engine."""

from __future__ import annotations

import asyncio
import importlib
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import openai
import pytest

from mlc_widget.api.async_interface import AsyncMLCEngineInterface

from ..waiting import until, until_idle, until_running

httpx: Any = importlib.import_module("httpx2" if openai.__version__.startswith("3") else "httpx")

SCRIPT = {"text": "one two three", "repeat": 100, "hang_after": 4}
REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello!"}]}
WORDS = ["one", "two", "three", "one"]
SHORT = 0.05

Options = dict[str, Any]
HOW: dict[str, tuple[Options, Options, Options]] = {
    # The client's options, with_options', the request's.
    "of the client": ({"timeout": SHORT}, {}, {}),
    "of the request": ({"timeout": 600}, {}, {"timeout": SHORT}),
    "with_options": ({"timeout": 600}, {"timeout": SHORT}, {}),
    "httpx.Timeout": ({"timeout": httpx.Timeout(600, read=SHORT)}, {}, {}),
    "httpx.Timeout of the request": ({}, {}, {"timeout": httpx.Timeout(SHORT)}),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_an_awaited_request_times_out(
    scripted: AsyncMLCEngineInterface, how: str, stream: bool
) -> None:
    options, more, fields = HOW[how]
    client = scripted.openai_client(**options).with_options(**more)
    pieces = []
    with pytest.raises(openai.APITimeoutError):
        answer: Any = await client.chat.completions.create(**REQUEST, **fields, stream=stream)
        async for chunk in answer:
            pieces += [choice.delta.content for choice in chunk.choices]
    words = "".join(p or "" for p in pieces).split()
    assert words == WORDS[: len(words)]  # fewer, if it waited as long for one of them
    assert stream or not words
    await until_idle(scripted)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_blocking_request_times_out(
    scripted: AsyncMLCEngineInterface, how: str, stream: bool
) -> None:
    options, more, fields = HOW[how]

    def ask() -> str:
        client = scripted.openai_client(sync=True, **options).with_options(**more)
        pieces = []
        with pytest.raises(openai.APITimeoutError):
            answer: Any = client.chat.completions.create(**REQUEST, **fields, stream=stream)
            for chunk in answer:
                pieces += [choice.delta.content for choice in chunk.choices]
        return "".join(p or "" for p in pieces)

    text = await asyncio.to_thread(ask)
    assert text.split() == WORDS[: len(text.split())]
    assert stream or not text
    await until_idle(scripted)


class LateClock:
    """The running loop's clock, with `hours` that have passed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop, self.hours = asyncio.get_running_loop(), 0
        clock = loop.time
        monkeypatch.setattr(loop, "time", lambda: clock() + 3600 * self.hours)


async def test_a_streams_timeout_is_also_httpxs(
    scripted: AsyncMLCEngineInterface, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = LateClock(monkeypatch)
    client = scripted.openai_client(timeout=600)
    pieces: list[str] = []

    async def read() -> None:
        async for chunk in await client.chat.completions.create(**REQUEST, stream=True):
            pieces.extend(choice.delta.content or "" for choice in chunk.choices)

    reading = asyncio.create_task(read())
    await until(lambda: "".join(pieces).split() == WORDS)  # the next one never comes
    clock.hours = 1
    with pytest.raises(httpx.ReadTimeout, match="The engine sent nothing for 600 s"):
        await reading
    await until_idle(scripted)


@pytest.mark.parametrize("kind", ["awaited", "blocking"])
async def test_a_timeout_is_tried_again(
    scripted: AsyncMLCEngineInterface, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openai._constants.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    tried: list[Any] = []  # here: a try that times out may not have reached the engine yet

    async def note(request: Any) -> None:
        tried.append(request)

    for retries in (2, 0):
        tried.clear()
        with pytest.raises(openai.APITimeoutError):
            if kind == "awaited":
                client = scripted.openai_client(timeout=SHORT, max_retries=retries)
                client._client.event_hooks = {"request": [note]}
                await client.chat.completions.create(**REQUEST)
            else:
                blocking = scripted.openai_client(sync=True, timeout=SHORT, max_retries=retries)
                blocking._client.event_hooks = {"request": [tried.append]}
                await asyncio.to_thread(partial(blocking.chat.completions.create, **REQUEST))
        assert [request.url.path for request in tried] == ["/v1/chat/completions"] * (retries + 1)
    await until_idle(scripted)


async def test_other_requests_time_out_too(scripted: AsyncMLCEngineInterface) -> None:
    client = scripted.openai_client(timeout=SHORT)
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: client.completions.create(model="m", prompt="x"),
        lambda: client.chat.completions.parse(**REQUEST),
        lambda: client.completions.with_raw_response.create(model="m", prompt="x"),
    ]
    for call in calls:
        with pytest.raises(openai.APITimeoutError):
            await call()
    await until_idle(scripted)


async def test_without_a_timeout_it_waits(scripted: AsyncMLCEngineInterface) -> None:
    assert scripted.openai_client().timeout is None
    client = scripted.openai_client(timeout=600)
    asking = asyncio.create_task(client.chat.completions.create(**REQUEST))
    await until_running(scripted)
    with pytest.raises(openai.APITimeoutError):  # one that came later, and has a timeout
        await scripted.openai_client(timeout=SHORT).chat.completions.create(**REQUEST)
    assert not asking.done()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await until_idle(scripted)


async def test_a_reader_that_pauses_does_not_time_out(
    scripted: AsyncMLCEngineInterface, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timeout is for the engine: what it has sent can be read whenever one likes."""
    clock = LateClock(monkeypatch)
    client = scripted.openai_client(timeout=600)
    stream = await client.chat.completions.create(**REQUEST, stream=True, max_tokens=3)
    texts = []
    async for chunk in stream:
        await until_idle(scripted)  # it has sent all
        clock.hours += 1  # a deadline that runs now is over
        await asyncio.sleep(0)
        texts += [choice.delta.content or "" for choice in chunk.choices]
    assert "".join(texts).split() == ["one", "two", "three"]
    assert clock.hours > 1


async def test_blocking_clients_serve_many_threads_while_the_loop_runs(
    scripted: AsyncMLCEngineInterface,
) -> None:
    client = scripted.openai_client(sync=True)
    answers: list[Any] = []

    def ask() -> None:
        for _ in range(5):
            answers.append(client.chat.completions.create(**REQUEST, max_tokens=2))
            stream = client.completions.create(model="m", prompt="x", max_tokens=1, stream=True)
            answers.append(list(stream))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    await until(lambda: not any(thread.is_alive() for thread in threads))
    assert len(answers) == 60
    # This loop runs while a thread waits for an answer: it is what ends it.
    waiting = asyncio.create_task(
        asyncio.to_thread(partial(client.chat.completions.create, **REQUEST))
    )
    await until_running(scripted)
    await scripted.interrupt_generate()
    assert (await waiting).choices[0].finish_reason == "abort"
    # And on the thread of the loop itself, as in a notebook's cell.
    answer = client.chat.completions.create(**REQUEST, max_tokens=2)
    assert answer.choices[0].message.content == "one two"


async def test_timing_out_takes_about_as_long_as_said(scripted: AsyncMLCEngineInterface) -> None:
    began = time.monotonic()
    with pytest.raises(openai.APITimeoutError):
        await scripted.openai_client(timeout=0.5).chat.completions.create(**REQUEST)
    assert time.monotonic() - began >= 0.5
