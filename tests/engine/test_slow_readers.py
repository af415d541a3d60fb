"""A reader that falls behind delays only its own text."""

from __future__ import annotations

import asyncio
import json
from functools import partial

import pytest_asyncio

from mlc_widget.engine.runtimes.base import ModelSource, Sampling
from mlc_widget.engine.runtimes.tvm.runtime import TVMRuntime
from mlc_widget.engine.runtimes.tvm.sequence import MAX_UNREAD, MAX_UNREAD_IF_OTHERS_WAIT
from mlc_widget.engine.store.tensor_cache import TensorCache
from mlc_widget.engine.text.tokenizer import Tokenizer

from ..waiting import until
from .conftest import DEADLINE
from .runtimes.tvm.conftest import held_after, until_submitted

PROMPT = list(range(20, 60))
SAMPLING = Sampling(4 * MAX_UNREAD, 1.0, 1.0, seed=5, ignore_eos=True)


@pytest_asyncio.fixture
async def runtime(model_folder, cache_dir):
    config = json.loads((model_folder / "mlc-chat-config.json").read_text())
    made = TVMRuntime({"cache_dir": cache_dir, "threads": 1})
    source = ModelSource(
        "random",
        model_folder,
        config,
        Tokenizer.from_folder(model_folder),
        partial(TensorCache.from_folder, model_folder),
    )
    await made.load(source, lambda *args, **kwargs: None)
    yield made
    await made.unload()


async def parked(runtime):
    await until(lambda: runtime._loaded.scheduler._parked)


async def no_page_is_lost(runtime):
    scheduler = runtime._loaded.scheduler
    assert await asyncio.to_thread(scheduler.wait_idle, DEADLINE)
    scheduler.pool.check()
    assert scheduler.pool.held == 0
    assert not scheduler._parked


async def ids_of(stream):
    return [i async for event in stream for i in event.token_ids]


async def test_a_text_that_nobody_reads_waits_without_memory(runtime):
    scheduler = runtime._loaded.scheduler
    free = await ids_of(runtime.generate(PROMPT, SAMPLING, request_id="free"))
    assert len(free) == SAMPLING.max_tokens
    steps = scheduler.executor.steps
    read = runtime.generate(PROMPT, SAMPLING, request_id="read")
    ids = list((await anext(read)).token_ids)
    await parked(runtime)
    assert scheduler.pool.held == 0
    assert scheduler.executor.steps - steps <= MAX_UNREAD + 2
    # Others have the model to themselves.
    greedy = Sampling(30, 0.0, 1.0, seed=0, ignore_eos=True)
    assert len(await ids_of(runtime.generate(PROMPT, greedy, request_id="other"))) == 30
    assert scheduler._parked
    # It goes on where it was, with the same text.
    assert ids + await ids_of(read) == free
    await no_page_is_lost(runtime)


async def test_a_waiting_text_can_be_closed_and_interrupted(runtime):
    closed = runtime.generate(PROMPT, SAMPLING, request_id="closed")
    await anext(closed)
    await parked(runtime)
    await closed.aclose()
    await no_page_is_lost(runtime)
    interrupted = runtime.generate(PROMPT, SAMPLING, request_id="interrupted")
    await anext(interrupted)
    await parked(runtime)
    runtime.interrupt()
    events = [e async for e in interrupted]
    assert events[-1].finish_reason == "abort"
    assert 1 < len(events) <= MAX_UNREAD + 1
    await no_page_is_lost(runtime)


async def test_many_stalled_texts_do_not_keep_a_neighbour_waiting(runtime):
    scheduler = runtime._loaded.scheduler
    scheduler._max_sequences = 4
    steps = scheduler.executor.steps
    stalled = [runtime.generate(PROMPT, SAMPLING, request_id=f"s{i}") for i in range(60)]
    greedy = Sampling(10, 0.0, 1.0, seed=0, ignore_eos=True)
    with held_after(runtime, 0) as release:
        opening = [asyncio.ensure_future(anext(one)) for one in stalled]
        await until_submitted(runtime, 60)
        neighbour = runtime.generate(PROMPT, greedy, request_id="neighbour")
        answer = asyncio.ensure_future(ids_of(neighbour))
        await until_submitted(runtime, 61)
        release()
        assert len(await answer) == 10
    # Each stalled text had its place for a few steps only.
    assert scheduler.executor.steps - steps < 60 / 4 * 2 * MAX_UNREAD_IF_OTHERS_WAIT
    firsts = await asyncio.gather(*opening)
    # What stalled goes on where it was once it is read.
    for one in stalled[1:]:
        await one.aclose()
    free = await ids_of(runtime.generate(PROMPT, SAMPLING, request_id="free"))
    assert [*firsts[0].token_ids, *await ids_of(stalled[0])] == free
    await no_page_is_lost(runtime)
