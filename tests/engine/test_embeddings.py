"""Embeddings compared with transformers', one by one and in batches, through OpenAI's interface."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from mlc_widget.api.errors import (
    BadRequestError,
    ContextLengthExceededError,
    EngineDeadError,
    EngineTerminatedError,
    MLCEngineError,
    UnsupportedModelError,
)

from .conftest import chat, engine_on, runtime_of

FIXTURES = Path(__file__).parents[1] / "fixtures"
BERT = FIXTURES / "embeddings" / "bert"
TEXTS = json.loads((BERT / "texts.json").read_text())
POOLINGS = ["cls", "mean", "last"]
CLOSE = 0.9999


@pytest_asyncio.fixture
async def bert(cache_dir):
    async with engine_on(BERT, cache_dir) as engine:
        yield engine


def expected(pooling: str) -> np.ndarray:
    with np.load(BERT / f"{pooling}.npz") as data:
        return data["vectors"]


def settings(pooling: str, **more) -> dict:
    metadata = {"pooling_strategy": pooling, "normalize": True, **more}
    return {"model_task": "embedding", "embedding_metadata": metadata}


async def vectors(engine, inputs, **request) -> np.ndarray:
    made = await engine.embeddings.create(input=inputs, encoding_format="float", **request)
    assert [d.index for d in made.data] == list(range(len(made.data)))
    return np.array([d.embedding for d in made.data])


def assert_close(found: np.ndarray, reference: np.ndarray) -> None:
    assert found.shape == reference.shape
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5
    assert (found * reference).sum(axis=1).min() > CLOSE


@pytest.mark.parametrize("pooling", POOLINGS)
async def test_an_encoder_gives_transformers_vectors(cache_dir, pooling):
    async with engine_on(BERT, cache_dir, chat_opts=settings(pooling)) as engine:
        batch = await vectors(engine, TEXTS)
        assert_close(batch, expected(pooling))
        alone = np.concatenate([await vectors(engine, text) for text in TEXTS])
        assert np.array_equal(alone, batch)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", ["llama", pytest.param("qwen3", marks=pytest.mark.soak)])
async def test_a_decoder_gives_transformers_vectors(cache_dir, name, pooling):
    with np.load(FIXTURES / "embeddings" / "decoders.npz") as data:
        tokens = [data[f"tokens-{i}"].tolist() for i in range(len(TEXTS))]
        reference = data[f"{name}-{pooling}"]
    folder = FIXTURES / "architectures" / name
    async with engine_on(folder, cache_dir, chat_opts=settings(pooling)) as engine:
        alone = np.concatenate([await vectors(engine, t) for t in tokens])
        assert_close(alone, reference)
        crowd = await asyncio.gather(*(vectors(engine, t) for t in reversed(tokens)))
        assert np.array_equal(np.concatenate(crowd[::-1]), alone)
        # All of them in the model's own batches.
        batch = np.array(await runtime_of(engine).embed(tokens))
        assert np.array_equal(batch.astype(np.float32), alone.astype(np.float32))


async def test_usage_counts_the_tokens_with_those_around_a_text(bert):
    tokenizer = next(iter(bert._core._models)).tokenizer
    made = await bert.embeddings.create(input=TEXTS[:3])
    counts = [len(tokenizer.encode(t)) + 2 for t in TEXTS[:3]]
    assert made.usage.prompt_tokens == made.usage.total_tokens == sum(counts)


async def test_base64_is_float32_little_endian(bert):
    plain = await vectors(bert, TEXTS[:2])
    made = await bert.embeddings.create(input=TEXTS[:2], encoding_format="base64")
    packed = [np.frombuffer(base64.b64decode(d.embedding), "<f4") for d in made.data]
    assert np.array_equal(np.array(packed), plain.astype(np.float32))


async def test_dimensions_keep_the_first_and_normalise_them(bert):
    whole = await vectors(bert, TEXTS[:3])
    short = await vectors(bert, TEXTS[:3], dimensions=32)
    assert short.shape == (3, 32)
    cut = whole[:, :32] / np.linalg.norm(whole[:, :32], axis=1, keepdims=True)
    assert np.abs(short - cut).max() < 1e-6
    with pytest.raises(BadRequestError) as caught:
        await vectors(bert, TEXTS[0], dimensions=97)
    assert caught.value.param == "dimensions"


async def test_vectors_that_are_not_normalised(cache_dir):
    opts = settings("mean", normalize=False)
    async with engine_on(BERT, cache_dir, chat_opts=opts) as engine:
        found = await vectors(engine, TEXTS)
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        assert np.abs(lengths - 1).min() > 0.01
        assert_close(found / lengths, expected("mean"))


async def test_many_texts_at_once_and_many_requests_at_once(bert):
    reference = expected("cls")
    many = [TEXTS[i % len(TEXTS)] for i in range(120)]
    results = await asyncio.gather(vectors(bert, many), *(vectors(bert, t) for t in TEXTS))
    assert_close(results[0], reference[np.arange(120) % len(TEXTS)])
    assert np.array_equal(np.concatenate(results[1:]), results[0][: len(TEXTS)])


async def test_a_short_request_does_not_wait_for_a_long_one(bert):
    long = asyncio.create_task(vectors(bert, [TEXTS[-1]] * 400))
    await asyncio.sleep(0)
    await vectors(bert, TEXTS[0])
    assert not long.done()
    long.cancel()
    await asyncio.wait([long])
    assert_close(await vectors(bert, TEXTS), expected("cls"))


async def test_a_label_changes_nothing(bert):
    assert np.array_equal(await vectors(bert, TEXTS[0], user="me"), await vectors(bert, TEXTS[0]))


@pytest.mark.parametrize("how", ["abort", "interrupt", "unload", "terminate", "cancel"])
async def test_a_request_is_ended(bert, how):
    held = asyncio.Event()

    async def hold(inputs):
        await held.wait()

    runtime_of(bert).embed = hold  # a long one
    waiting = asyncio.create_task(vectors(bert, TEXTS[0], request_id="mine"))
    while (await bert.metrics())["running_requests"] == 0:
        await asyncio.sleep(0)
    with pytest.raises(BadRequestError, match="request_id = 'mine'"):
        await vectors(bert, TEXTS[0], request_id="mine")
    await bert.abort("another")
    error = MLCEngineError
    if how == "abort":
        await bert.abort("mine")
    elif how == "interrupt":
        await bert.interrupt_generate()
    elif how == "unload":
        await bert.unload()
    elif how == "terminate":
        await bert.terminate()
        error = EngineTerminatedError
    else:
        waiting.cancel()
        error = asyncio.CancelledError
    with pytest.raises(error) as caught:
        await waiting
    if error is MLCEngineError:
        assert caught.value.code == "aborted"
    while how != "terminate" and (await bert.metrics())["running_requests"]:
        await asyncio.sleep(0)  # a cancelled caller does not wait for the engine


async def test_texts_that_are_too_long_or_empty(bert):
    with pytest.raises(ContextLengthExceededError, match="512") as caught:
        await vectors(bert, "rain " * 600)
    assert caught.value.param == "input"
    for wrong in ("", [], [[]], [5000], ["fine", ""]):
        with pytest.raises(BadRequestError):
            await vectors(bert, wrong)


async def test_truncate_cuts_what_is_longer_than_the_window(bert):
    async def cut(inputs, truncate=True):
        return (await vectors(bert, inputs, truncate=truncate)).tolist()

    longer, ids = "rain " * 600, [[5] * 600]
    [expected] = (await vectors(bert, "rain " * 510)).tolist()  # beside them [CLS] and [SEP]
    for text in (longer, "rain " * 500_000, "rain " * 510):
        assert await cut(text) == [expected]
    assert await cut(["fine", longer]) == [*await cut("fine"), expected]
    assert await cut(ids) == await cut([[5] * 512])
    for refused in (longer, ids):
        with pytest.raises(ContextLengthExceededError):
            await cut(refused, truncate=False)


async def test_models_are_for_one_or_the_other(bert, model_folder, cache_dir):
    with pytest.raises(UnsupportedModelError, match="embeddings"):
        await chat(bert, "?")
    async with engine_on(model_folder, cache_dir) as engine:
        with pytest.raises(UnsupportedModelError, match="embedding"):
            await vectors(engine, "?")


async def test_unloading_ends_what_waits(cache_dir):
    async with engine_on(BERT, cache_dir) as engine:
        runtime = runtime_of(engine)
        waiting = asyncio.run_coroutine_threadsafe(
            runtime.embed([[5] * 500] * 200), engine._home.loop
        )
        await engine.unload()
        with pytest.raises(EngineDeadError):
            await asyncio.wrap_future(waiting)


async def test_a_pooling_that_is_none_is_refused(cache_dir):
    with pytest.raises(Exception, match="pooling_strategy is 'max'"):
        async with engine_on(BERT, cache_dir, chat_opts=settings("max")):
            pass
