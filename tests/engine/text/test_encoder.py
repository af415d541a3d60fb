"""Encoding beside the event loop: nothing that a tokenizer does holds up or ends anything else."""

from __future__ import annotations

import asyncio
import threading

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from mlc_widget.api.errors import BadRequestError, InternalEngineError
from mlc_widget.engine.text.encoder import _MOST_LOST, Encoder
from mlc_widget.engine.text.prompt_text import content
from mlc_widget.engine.text.tokenizer import Tokenizer

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
        with pytest.raises(InternalEngineError, match="may never end") as caught:
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
