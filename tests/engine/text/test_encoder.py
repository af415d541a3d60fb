"""Encoding on threads: whatever a tokenizer does, it does not delay or end anything else."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from mlc_widget.api.errors import BadRequestError, InternalEngineError
from mlc_widget.engine.text.encoder import _MOST_LOST, CHARS_PER_S, Encoder
from mlc_widget.engine.text.prompt_text import content
from mlc_widget.engine.text.tokenizer import Tokenizer

from ...waiting import until

DEADLINE = 60.0


def words(pattern: str = r"\s+") -> Tokenizer:
    t = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    t.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(pattern), "removed")
    return Tokenizer(t)


@pytest.fixture
def gate():
    opened = threading.Event()
    yield opened
    opened.set()


async def test_a_prompt_is_encoded():
    assert await Encoder(words(), "m").encode_prompt(content("a b a")) == [1, 0, 1]


async def test_a_panic_is_one_error():
    encoder = Encoder(words(r"(a+)+$"), "m")
    with pytest.raises(InternalEngineError, match=r"tokenizer of m failed.*retry-limit"):
        await encoder.encode_prompt(content("a" * 40 + "!"))
    assert await encoder.encode_prompt(content("b")) == [0]
    assert encoder.running_step() is None


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), MemoryError(), RecursionError(), StopIteration()]
)
async def test_whatever_is_thrown_is_one_error(error):
    def fail():
        raise error

    with pytest.raises(InternalEngineError, match=type(error).__name__):
        await Encoder(words(), "m").run(fail, 5)


async def test_an_error_of_ours_stays_what_it_is():
    with pytest.raises(BadRequestError, match="UTF-8"):
        await Encoder(words(), "m").encode_prompt(content("\ud800"))


async def test_what_runs_away_ends_its_request_and_is_seen(gate):
    encoder = Encoder(words(), "m")
    encoder._limit_s = 0.0
    for _ in range(_MOST_LOST):
        with pytest.raises(InternalEngineError, match="may take forever") as caught:
            await encoder.run(gate.wait, 1)
        assert caught.value.code == "tokenizer_hangs"
        encoder._limit_s = 0.01
    step = encoder.running_step()
    assert step is not None
    assert step.number == 1
    assert step.usual_s == 0.0
    with pytest.raises(InternalEngineError, match="restart the worker"):
        await encoder.encode_prompt(content("a"))
    gate.set()
    async with asyncio.timeout(DEADLINE):
        while encoder.running_step() is not None:
            await asyncio.sleep(0.001)
    encoder._limit_s = DEADLINE
    assert await encoder.encode_prompt(content("a")) == [1]


async def test_the_loop_goes_on_while_a_long_text_is_encoded():
    encoder = Encoder(words(), "m")
    work = asyncio.ensure_future(encoder.encode_prompt(content("a b " * 200_000)))
    turns = 0
    while not work.done():
        await asyncio.sleep(0)
        turns += 1
    assert len(await work) == 400_000
    assert turns > 100


async def test_a_short_text_does_not_wait_for_long_ones(gate):
    encoder = Encoder(words(), "m")
    long = [asyncio.ensure_future(encoder.run(gate.wait, 10**6)) for _ in range(5)]
    assert await encoder.encode_prompt(content("a")) == [1]
    assert not any(one.done() for one in long)
    gate.set()
    await asyncio.gather(*long)


async def cancel(*tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def started(encoder, count):
    async with asyncio.timeout(DEADLINE):
        while len(encoder._running) < count:
            await asyncio.sleep(0)


async def test_a_cancelled_long_text_holds_its_place_until_it_has_ended(gate):
    encoder = Encoder(words(), "m")
    long = [asyncio.ensure_future(encoder.run(gate.wait, 10**6)) for _ in range(2)]
    await started(encoder, 2)
    await cancel(*long)
    next_one = asyncio.ensure_future(encoder.run(lambda: 5, 10**6))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(encoder._running) == 2  # no third text fills the memory
    assert await encoder.encode_prompt(content("a")) == [1]  # short ones go on
    gate.set()
    assert await next_one == 5
    await until(lambda: encoder.running_step() is None)  # the threads may still be ending


async def test_cancelled_texts_that_end_in_time_are_waited_for(gate):
    encoder = Encoder(words(), "m")
    short = [asyncio.ensure_future(encoder.run(gate.wait, 1)) for _ in range(_MOST_LOST)]
    await started(encoder, _MOST_LOST)
    await cancel(*short)
    next_one = asyncio.ensure_future(encoder.encode_prompt(content("a")))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(encoder._running) == _MOST_LOST
    gate.set()
    assert await next_one == [1]


@pytest.mark.parametrize(("count", "chars"), [(_MOST_LOST, 1), (2, 10**6)])
async def test_cancelled_texts_that_never_end_are_an_error_for_the_next(gate, count, chars):
    encoder = Encoder(words(), "m")
    encoder._limit_s = 0.05 - chars / CHARS_PER_S
    left = [asyncio.ensure_future(encoder.run(gate.wait, chars)) for _ in range(count)]
    await started(encoder, count)
    await cancel(*left)
    with pytest.raises(InternalEngineError, match="restart the worker") as caught:
        await encoder.run(lambda: 5, chars)
    assert caught.value.code == "tokenizer_hangs"


async def test_what_waits_for_a_place_can_be_cancelled(gate):
    encoder = Encoder(words(), "m")
    long = [asyncio.ensure_future(encoder.run(gate.wait, 10**6)) for _ in range(4)]
    await started(encoder, 2)
    await cancel(*long[2:])
    gate.set()
    assert await asyncio.gather(*long[:2]) == [True, True]
    assert encoder.running_step() is None


async def test_the_error_of_a_cancelled_text_is_nobodys(gate):
    def fail():
        gate.wait()
        raise ValueError("too late")

    heard = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    encoder = Encoder(words(), "m")
    work = asyncio.ensure_future(encoder.run(fail, 1))
    await started(encoder, 1)
    await cancel(work)
    gate.set()
    async with asyncio.timeout(DEADLINE):
        while encoder.running_step() is not None:
            await asyncio.sleep(0)
    gc.collect()
    assert not heard
