"""A thousand requests of all kinds at once, many given up: nothing breaks, nothing leaks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading

import jsonschema
import pytest

from mlc_widget.api.errors import BadRequestError, ContextLengthExceededError, MLCEngineError

from .conftest import DEADLINE, assert_no_page_lost, chat, engine_on, user
from .schemas import GOOD

ROOMY = {"max_num_sequence": 16}
TIGHT = {"max_num_sequence": 24, "max_total_sequence_length": 1024, "prefill_chunk_size": 48}
"""A cache that is too small for what runs: sequences are preempted and computed again."""
WORDS = ["the", "weather", "in", "Paris", "is", "mild", "today", "and", "answer", "question"]


class Fuzz:
    """Makes requests, gives some up, and counts how they ended."""

    def __init__(self, engine, seed: int) -> None:
        self.engine = engine
        self.random = random.Random(seed)
        self.ends: dict[str, int] = {}

    def request(self) -> dict:
        r = self.random
        # Many conversations begin alike, so that pages are shared, forked and evicted.
        topic = r.randrange(6)
        words = random.Random(topic).choices(WORDS, k=r.choice([2, 20, 120]))
        request = {
            "messages": user(" ".join([*words, *r.choices(WORDS, k=r.randrange(8))])),
            "max_tokens": r.choice([1, 2, 5, 20, 60]),
            "seed": r.randrange(2**63),
            "temperature": r.choice([0, 0.7, 1.0]),
            "n": r.choice([1, 1, 1, 2, 4]),
            "ignore_eos": r.random() < 0.5,
        }
        if r.random() < 0.2:
            request["stop"] = [r.choice("aeiou"), "}"]
        if r.random() < 0.2:
            request |= {"frequency_penalty": 0.5, "repetition_penalty": 1.1, "top_p": 0.9}
        if r.random() < 0.2:
            request |= {"top_k": 20, "typical_p": 0.9, "min_p": 0.01, "dry_multiplier": 2}
        if r.random() < 0.2:
            request |= {"logprobs": True, "top_logprobs": 3}
        if r.random() < 0.2:
            schema = GOOD[r.choice(["weather", "tuple", "no arguments", "root enum"])]
            request["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": schema},
            }
            request |= {"max_tokens": 200, "ignore_eos": False, "stop": None}
        return request

    def broken(self) -> dict:
        """A request that must be refused."""
        r = self.random
        request = self.request()
        request |= r.choice([
            {"max_tokens": 0},
            {"temperature": 9},
            {"messages": []},
            {"messages": user("very " * 3000)},
            {"logit_bias": {10**6: 1}},
            {"response_format": {"type": "json_object", "schema": {"type": "x"}}},
        ])  # fmt: skip
        return request

    def note(self, end: str) -> None:
        self.ends[end] = self.ends.get(end, 0) + 1

    async def one(self, gate: asyncio.Semaphore) -> None:
        async with gate:
            kind = self.random.choice(
                ["whole", "whole", "stream", "break", "cancel", "abort", "bad"]
            )
            with contextlib.suppress(asyncio.CancelledError):
                await getattr(self, f"_{kind}")()
            self.note(kind)

    def _check(self, request, choices) -> None:
        assert len(choices) == request["n"]
        for choice in choices:
            assert choice.finish_reason in ("stop", "length")
            if "response_format" in request and choice.finish_reason == "stop":
                schema = request["response_format"]["json_schema"]["schema"]
                jsonschema.validate(json.loads(choice.message.content), schema)

    async def _whole(self) -> None:
        request = self.request()
        made = await self.engine.chat.completions.create(**request)
        self._check(request, made.choices)
        assert made.usage.completion_tokens <= request["max_tokens"] * request["n"]

    async def _stream(self) -> None:
        request = self.request()
        reasons = {}
        async for chunk in await self.engine.chat.completions.create(**request, stream=True):
            choice = chunk.choices[0]
            assert reasons.get(choice.index) is None
            reasons[choice.index] = choice.finish_reason
        assert set(reasons) == set(range(request["n"]))
        assert set(reasons.values()) <= {"stop", "length"}

    async def _break(self) -> None:
        request = {**self.request(), "max_tokens": 500, "response_format": None}
        after = self.random.randrange(4)
        stream = await self.engine.chat.completions.create(**request, stream=True)
        async for _ in stream:
            if not after:
                break
            after -= 1
        if self.random.random() < 0.7:  # else the garbage collector has to see to it
            await stream.close()

    async def _cancel(self) -> None:
        request = {**self.request(), "max_tokens": 500, "response_format": None}
        task = asyncio.create_task(self.engine.chat.completions.create(**request))
        for _ in range(self.random.randrange(30)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    async def _abort(self) -> None:
        name = f"aborted-{self.random.random()}"
        request = {**self.request(), "max_tokens": 500, "response_format": None}
        task = asyncio.create_task(self.engine.chat.completions.create(**request, request_id=name))
        for _ in range(self.random.randrange(30)):
            await asyncio.sleep(0)
        await self.engine.abort(name)
        task.cancel()
        await asyncio.wait([task])

    async def _bad(self) -> None:
        with pytest.raises(BadRequestError):
            await self.engine.chat.completions.create(**self.broken())


@pytest.mark.parametrize(
    ("options", "requests"),
    [
        pytest.param(ROOMY, 500, id="roomy", marks=pytest.mark.soak),
        pytest.param(TIGHT, 250, id="tight"),
        pytest.param(TIGHT, 500, id="tight, more", marks=pytest.mark.soak),
    ],
)
async def test_hundreds_of_requests(model_folder, cache_dir, options, requests):
    async with engine_on(model_folder, cache_dir, **options) as engine:
        fuzz = Fuzz(engine, seed=7)
        gate = asyncio.Semaphore(40)
        async with asyncio.timeout(3 * DEADLINE):
            await asyncio.gather(*(fuzz.one(gate) for _ in range(requests)))
        assert sum(fuzz.ends.values()) == requests
        kinds = ("whole", "stream", "break", "cancel", "abort", "bad")
        assert min(fuzz.ends[k] for k in kinds) > requests // 13
        await assert_no_page_lost(engine)
        # It still answers, and as it always would have.
        alone = (await chat(engine, "after all")).choices[0].message.content
    async with engine_on(model_folder, cache_dir) as fresh:
        assert (await chat(fresh, "after all")).choices[0].message.content == alone


async def test_interrupts_among_many(engine, steps):
    """Interrupts end what runs and touch nothing that comes later."""
    count = steps(engine)
    for round_ in range(20):
        count.pause_after(round_)
        running = [
            asyncio.create_task(chat(engine, f"{round_} {i}", max_tokens=1500)) for i in range(6)
        ]
        while len(engine._core._generations) < 6:
            await asyncio.sleep(0)
        await engine.interrupt_generate()
        later = asyncio.create_task(chat(engine, "later", max_tokens=5))
        count.go_on()
        ended = await asyncio.gather(*running)
        assert {a.choices[0].finish_reason for a in ended} == {"abort"}
        assert (await later).choices[0].finish_reason == "length"
    await assert_no_page_lost(engine)


async def test_an_unload_that_ends_what_runs(model_folder, cache_dir, steps):
    """Unloading under load: every request gets an end, and the threads end."""
    async with engine_on(model_folder, cache_dir) as engine:
        count = steps(engine)
        count.pause_after(20)
        tasks = [asyncio.create_task(chat(engine, f"{i}", max_tokens=1500)) for i in range(12)]
        while len(engine._core._generations) < 12:
            await asyncio.sleep(0)
        unload = asyncio.create_task(engine.unload())
        while list(engine._core._models):  # until the model is given up
            await asyncio.sleep(0)
        count.go_on()
        await unload
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException):
                assert isinstance(result, MLCEngineError)
            else:
                assert result.choices[0].finish_reason == "abort"
        await engine.reload(str(model_folder))
        assert (await chat(engine, "after")).choices[0].finish_reason == "length"
        for thread in threading.enumerate():
            if thread.name.startswith("mlc_widget-tvm-load"):
                await asyncio.to_thread(thread.join, DEADLINE)
                assert not thread.is_alive()


async def test_the_context_window_is_told_with_numbers(engine):
    with pytest.raises(ContextLengthExceededError, match=r"2048") as caught:
        await chat(engine, "weather " * 3000)
    assert caught.value.param == "messages"
    made = await chat(engine, "weather " * 200, max_tokens=None)
    assert made.usage.total_tokens == 2048
    assert made.choices[0].finish_reason == "length"
