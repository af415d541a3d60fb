"""The runtime through its interface: text, finish reasons, batching, reuse, interrupts, errors."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence

import numpy as np
import pytest

from mlc_widget.api.errors import (
    BadRequestError,
    ContextLengthExceededError,
    EngineDeadError,
    InsufficientMemoryError,
    InternalEngineError,
    ModelNotLoadedError,
    UnsupportedModelError,
)
from mlc_widget.engine.runtimes.tvm.executor import Executor
from mlc_widget.engine.runtimes.tvm.runtime import TVMRuntime
from mlc_widget.engine.runtimes.tvm.step_inputs import Span

from .conftest import (
    DEADLINE,
    GOLDEN,
    ROOT,
    Reports,
    Stepper,
    assert_no_page_lost,
    collect,
    executor_for,
    golden_data,
    greedy,
    held_after,
    ids_of,
    scheduler_of,
    source_of,
    text_of,
    until_submitted,
)

NAME = "gqa-tied-q4f32_1"
PROMPT = list(range(10, 40))


def sampled(**changes):
    return greedy(temperature=1.0, top_p=0.95, seed=11, **changes)


# --- text and its end -----------------------------------------------------------------------------


async def test_text_is_the_tokens_decoded(load):
    runtime = await load(NAME)
    events = await collect(runtime, PROMPT, sampled(max_tokens=60))
    tokenizer = source_of(GOLDEN / NAME).tokenizer
    assert text_of(events) == tokenizer.decode(ids_of(events))
    assert "\ufffd" in text_of(events)  # random bytes: otherwise this would test little
    assert len(ids_of(events)) == 60


async def test_max_tokens(load):
    runtime = await load(NAME)
    for n in (1, 2, 17):
        events = await collect(runtime, PROMPT, greedy(max_tokens=n))
        assert len(ids_of(events)) == n
        assert events[-1].finish_reason == "length"
        assert events[-1].stats.completion_tokens == n
        assert events[-1].stats.prompt_tokens == len(PROMPT)


async def test_the_context_window_ends_the_text(load):
    runtime = await load(NAME, changes={"context_window_size": 64})
    assert runtime.context_window_size == 64
    events = await collect(runtime, PROMPT, greedy(max_tokens=None))
    assert len(PROMPT) + len(ids_of(events)) == 64
    assert events[-1].finish_reason == "length"


async def test_a_prompt_that_does_not_fit(load):
    runtime = await load(NAME, changes={"context_window_size": 64})
    for n in (64, 500):
        with pytest.raises(ContextLengthExceededError, match=f"{n} tokens.* 64"):
            await collect(runtime, [5] * n, greedy())
    assert len(ids_of(await collect(runtime, [5] * 63, greedy()))) == 1


async def test_the_kv_cache_limits_the_context_window(load):
    runtime = await load(NAME, max_total_sequence_length=40)
    assert runtime.context_window_size == 48  # whole pages


@pytest.mark.parametrize("prompt", [[], [259], [-1], [5, 100000]])
async def test_prompts_that_are_none(load, prompt):
    runtime = await load(NAME)
    with pytest.raises(BadRequestError):
        await collect(runtime, prompt, greedy())


async def test_stop_token_ids(load):
    runtime = await load(NAME)
    free = ids_of(await collect(runtime, PROMPT, greedy()))
    stop = free[7]
    events = await collect(runtime, PROMPT, greedy(stop_token_ids=(stop,)))
    assert ids_of(events) == free[: free.index(stop)]
    assert events[-1].finish_reason == "stop"
    assert events[-1].stats.completion_tokens == free.index(stop) + 1
    ignoring = await collect(runtime, PROMPT, greedy(stop_token_ids=(stop,), ignore_eos=True))
    assert ids_of(ignoring) == free


async def test_stop_strings(load):
    runtime = await load(NAME)
    # Letters only, so that the text has no replaced bytes.
    bias = dict.fromkeys(range(3 + 32, 3 + 32 + 26), 200.0)
    free = text_of(await collect(runtime, PROMPT, sampled(logit_bias=bias)))
    stop = free[5:8]
    events = await collect(runtime, PROMPT, sampled(logit_bias=bias, stop=(stop, "no such")))
    assert text_of(events) == free[: free.index(stop)]
    assert events[-1].finish_reason == "stop"
    assert all(stop not in e.text for e in events)


async def test_text_held_back_for_a_stop_string_is_given_at_the_end(load):
    runtime = await load(NAME)
    bias = dict.fromkeys(range(3 + 32, 3 + 32 + 26), 200.0)
    free = text_of(await collect(runtime, PROMPT, sampled(logit_bias=bias, max_tokens=8)))
    held = await collect(
        runtime, PROMPT, sampled(logit_bias=bias, max_tokens=8, stop=(free[4:] + "!",))
    )
    assert text_of(held) == free
    assert held[-1].finish_reason == "length"


# --- sampling -------------------------------------------------------------------------------------


async def test_a_seed_gives_the_same_text_alone_and_in_a_crowd(load):
    runtime = await load(NAME, prefill_chunk_size=40)
    prompts = [[(7 * i + j) % 250 + 3 for j in range(5 + 9 * i)] for i in range(9)]
    alone = [ids_of(await collect(runtime, p, sampled(choice=i))) for i, p in enumerate(prompts)]
    crowd = await asyncio.gather(
        *(collect(runtime, p, sampled(choice=i)) for i, p in enumerate(prompts))
    )
    assert [ids_of(c) for c in crowd] == alone
    assert_no_page_lost(runtime)


async def test_seed_and_choice_matter(load):
    runtime = await load(NAME)
    texts = [
        tuple(ids_of(await collect(runtime, PROMPT, greedy(temperature=1.0, seed=s, choice=c))))
        for s, c in [(1, 0), (2, 0), (1, 1), (1, 0)]
    ]
    assert len(set(texts)) == 3
    assert texts[0] == texts[3]


async def test_a_text_goes_on_from_its_tokens_as_if_it_had_not_stopped(load):
    runtime = await load(NAME)
    whole = ids_of(await collect(runtime, PROMPT, sampled()))
    rest = await collect(runtime, PROMPT + whole[:13], sampled(max_tokens=40 - 13))
    assert ids_of(rest) == whole[13:]


async def test_logit_bias_forces_a_token(load):
    runtime = await load(NAME)
    events = await collect(runtime, PROMPT, sampled(logit_bias={77: 1000.0}, max_tokens=3))
    assert ids_of(events) == [77, 77, 77]


async def test_logprobs(load):
    runtime = await load(NAME)
    golden = golden_data(NAME)
    events = await collect(
        runtime, golden["prompt"].tolist(), greedy(logprobs=True, top_logprobs=4, max_tokens=5)
    )
    logits = golden["logits"][-1].astype(np.float64)
    reference = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    first = events[0].logprobs[0]
    best = np.argsort(-reference)[:4]
    assert [t for t, _, _ in first.top] == best.tolist()
    assert [p for _, _, p in first.top] == pytest.approx(reference[best].tolist(), abs=1e-3)
    assert (first.token_id, first.logprob) == (first.top[0][0], first.top[0][2])
    assert first.token == source_of(GOLDEN / NAME).tokenizer.token_bytes(first.token_id)
    assert all(len(e.logprobs) == len(e.token_ids) == 1 for e in events)


# --- many at once ---------------------------------------------------------------------------------


async def test_eight_requests_share_each_step(load):
    runtime = await load(NAME, prefix_cache_mode="disable", speculative_mode="disable")
    executor = scheduler_of(runtime).executor
    await collect(runtime, PROMPT, greedy())
    alone = executor.steps
    assert alone == 40
    with held_after(runtime, 0) as release:
        answers = [
            asyncio.ensure_future(collect(runtime, [i + 3, *PROMPT], greedy())) for i in range(8)
        ]
        await until_submitted(runtime, 8)
        release()
        await asyncio.gather(*answers)
    # One after another they would take 8 × 40. A step has room for one prompt at least, beside the
    # next tokens of the others.
    assert executor.steps - alone <= alone + 8


async def test_more_requests_than_may_run_wait_their_turn(load):
    runtime = await load(NAME, max_num_sequence=2)
    results = await asyncio.gather(
        *(collect(runtime, [i + 3, *PROMPT], greedy(max_tokens=9)) for i in range(7))
    )
    assert all(len(ids_of(r)) == 9 for r in results)
    assert_no_page_lost(runtime)


async def test_sequences_that_outgrow_the_cache_are_computed_again_without_a_trace(load):
    prompts = [[i + 3, *PROMPT] for i in range(5)]
    roomy = await load(NAME)
    expected = [ids_of(await collect(roomy, p, sampled(max_tokens=100))) for p in prompts]
    for mode in ("radix", "disable"):
        tight = await load(NAME, max_total_sequence_length=256, prefix_cache_mode=mode)
        results = await asyncio.gather(
            *(collect(tight, p, sampled(max_tokens=100)) for p in prompts)
        )
        assert [ids_of(r) for r in results] == expected
        assert_no_page_lost(tight)


async def test_a_short_prompt_does_not_wait_for_a_long_one(load):
    runtime = await load(NAME, prefill_chunk_size=32, prefix_cache_mode="disable")
    order: list[str] = []

    async def first_token(name: str, prompt: list[int]) -> None:
        async for _ in runtime.generate(prompt, greedy(max_tokens=2), request_id=name):
            order.append(name)
            break

    with held_after(runtime, 0) as release:
        long = asyncio.ensure_future(first_token("long", [5] * 250))
        await until_submitted(runtime, 1)
        short = asyncio.ensure_future(first_token("short", [6] * 20))
        await until_submitted(runtime, 2)
        release()
        await asyncio.gather(long, short)
    assert order == ["short", "long"]


async def test_idle_time_goes_to_settling_and_never_a_request_s(load, monkeypatch):
    settled = threading.Event()
    meanwhile: list[bool] = []

    def settle(executor: Executor) -> bool:
        meanwhile.append(executor.steps in running)
        settled.set()
        return True  # there is always more

    monkeypatch.setattr(Executor, "settle", settle)
    running: set[int] = set()
    runtime = await load(NAME, speculative_mode="disable")
    assert await asyncio.to_thread(settled.wait, DEADLINE)
    # Between the steps of a request nothing is settled: those of the first follow step 0.
    running.update(range(1, 40))
    assert len(ids_of(await collect(runtime, PROMPT, greedy()))) == 40
    settled.clear()
    assert await asyncio.to_thread(settled.wait, DEADLINE)
    assert not any(meanwhile)
    await asyncio.wait_for(runtime.unload(), DEADLINE)


def test_settling_computes_a_row_unless_there_was_a_step(cache_dir, monkeypatch):
    computed: list[Executor] = []
    compute = Executor._compute

    def counted(executor: Executor, spans: Sequence[Span]) -> int:
        computed.append(executor)
        return compute(executor, spans)

    monkeypatch.setattr(Executor, "_compute", counted)
    settled, used, plain = (executor_for(NAME, cache_dir) for _ in range(3))
    assert not computed
    for _ in range(3):
        settled.settle()
    assert computed == [settled]
    assert settled.steps == 0
    steppers = [Stepper(executor) for executor in (settled, used, plain)]
    for stepper in steppers:
        stepper.step(a=PROMPT)
        if stepper.executor is used:
            used.settle()
        stepper.step(a=[7])
    assert computed.count(used) == 2
    for stepper in steppers[:2]:
        np.testing.assert_array_equal(stepper.all("a"), steppers[2].all("a"))


# --- reuse ----------------------------------------------------------------------------------------


async def test_the_next_turn_prefills_only_what_is_new(load):
    runtime = await load(NAME)
    fresh = await load(NAME, prefix_cache_mode="disable")
    sampling = greedy(logprobs=True, top_logprobs=3, max_tokens=15)
    turn = list(PROMPT)
    for new in ([50, 51, 52], [60], list(range(70, 110))):
        first = await collect(runtime, turn, sampling)
        history = turn + ids_of(first)
        turn = history + new
        again = await collect(runtime, turn, sampling)
        # The last token of an answer was never fed back, so it counts as new.
        assert again[-1].stats.cached_tokens == len(history) - 1
        assert again[-1].stats.prompt_tokens == len(turn)
        cold = await collect(fresh, turn, sampling)
        assert cold[-1].stats.cached_tokens == 0
        assert [e.logprobs for e in again] == [e.logprobs for e in cold]
        turn += ids_of(again)
    assert_no_page_lost(runtime)


async def test_a_prompt_shares_the_beginning_of_another(load):
    runtime = await load(NAME)
    common = list(range(20, 57))
    await collect(runtime, [*common, 5, 6, 7], greedy(max_tokens=3))
    events = await collect(runtime, [*common, 8, 9], greedy(max_tokens=3))
    assert events[-1].stats.cached_tokens == len(common)
    same = await collect(runtime, [*common, 8, 9], greedy(max_tokens=3))
    assert same[-1].stats.cached_tokens == len(common) + 1  # the last row's logits are needed
    assert ids_of(same) == ids_of(events)


async def test_prompts_with_different_salts_share_nothing(load):
    runtime = await load(NAME)
    prompt, salts = list(range(20, 80)), ("a", "b", "", "a")
    answers = [
        await collect(runtime, prompt, greedy(max_tokens=20, cache_salt=salt)) for salt in salts
    ]
    assert [a[-1].stats.cached_tokens for a in answers] == [0, 0, 0, len(prompt) - 1]
    assert len({tuple(ids_of(answer)) for answer in answers}) == 1
    # Nor is one that is running waited for, so that its pages could be shared.
    other, salts = list(range(30, 95)), ("c", "d", "c")
    together = await asyncio.gather(
        *(collect(runtime, other, greedy(max_tokens=2, cache_salt=salt)) for salt in salts)
    )
    assert [a[-1].stats.cached_tokens for a in together] == [0, 0, len(other) - 1]
    assert_no_page_lost(runtime)


# --- interruption ---------------------------------------------------------------------------------


async def test_closing_a_stream_gives_its_pages_back(load):
    runtime = await load(NAME)
    scheduler = scheduler_of(runtime)
    steps = scheduler.executor.steps
    with held_after(runtime, 5) as release:
        stream = runtime.generate(PROMPT, greedy(max_tokens=200), request_id="r")
        await anext(stream)
        assert scheduler.pool.held > 0
        await stream.aclose()
        release()
        assert_no_page_lost(runtime)
    assert scheduler.executor.steps <= steps + 6  # those let through, and the one that was held


async def test_cancelling_a_consumer_stops_the_work(load):
    runtime = await load(NAME)
    started = asyncio.Event()

    async def consume() -> None:
        async for _ in runtime.generate(PROMPT, greedy(max_tokens=220), request_id="r"):
            started.set()

    steps = scheduler_of(runtime).executor.steps
    with held_after(runtime, 5) as release:
        task = asyncio.create_task(consume())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release()
        assert_no_page_lost(runtime)
    assert scheduler_of(runtime).executor.steps <= steps + 6


async def test_interrupt_ends_what_runs_and_what_waits_but_not_what_comes(load):
    runtime = await load(NAME, max_num_sequence=1)
    streams = [
        runtime.generate([i + 3, *PROMPT], greedy(max_tokens=220), request_id=str(i))
        for i in range(3)
    ]
    with held_after(runtime, 5) as release:
        firsts = [asyncio.ensure_future(anext(s)) for s in streams]
        await firsts[0]
        runtime.interrupt()
        after = asyncio.ensure_future(collect(runtime, PROMPT, greedy(max_tokens=4)))
        release()
    ends = [e async for e in streams[0]]
    assert ends[-1].finish_reason == "abort"
    assert ends[-1].stats.completion_tokens <= 6
    for first in firsts[1:]:
        event = await first
        assert event.finish_reason == "abort"
        assert event.stats.completion_tokens == 0
    assert len(ids_of(await after)) == 4
    assert_no_page_lost(runtime)


async def test_interrupt_without_work_does_nothing(load):
    runtime = await load(NAME)
    runtime.interrupt()
    assert len(ids_of(await collect(runtime, PROMPT, greedy(max_tokens=4)))) == 4


async def test_fuzzed_company(load):
    """Requests begin, end, are closed and cancelled at random; nothing hangs or leaks."""
    runtime = await load(NAME, max_num_sequence=6, max_total_sequence_length=512)
    rng = np.random.default_rng(3)
    expected: dict[int, list[int]] = {}

    async def one(i: int) -> None:
        kind = i % 5
        prompt = [int(t) for t in rng.integers(3, 259, int(rng.integers(1, 90)))]
        sampling = sampled(max_tokens=int(rng.integers(6, 50)), choice=i)
        got: list[int] = []
        stream = runtime.generate(prompt, sampling, request_id=str(i))
        async for event in stream:
            got += event.token_ids
            if kind == 1 and len(got) >= 3:
                await stream.aclose()
                return
            if i == 32 and len(got) == 5:
                runtime.interrupt()
        if event.finish_reason == "length":
            expected[i] = got
            again = await collect(runtime, prompt, sampling)
            if again[-1].finish_reason == "length":
                assert ids_of(again) == got

    tasks = [asyncio.create_task(one(i)) for i in range(60)]
    for i in range(0, 60, 7):
        tasks[i].cancel()
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), DEADLINE)
    wrong = [r for r in results if isinstance(r, Exception)]
    assert not wrong
    assert expected
    assert_no_page_lost(runtime)


# --- failure and end ------------------------------------------------------------------------------


async def test_when_the_thread_dies_everybody_hears_of_it(load):
    runtime = await load(NAME)
    executor = scheduler_of(runtime).executor
    real, calls = executor.run, 0

    def failing(spans):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("no more memory in the moon")
        return real(spans)

    executor.run = failing
    results = await asyncio.wait_for(
        asyncio.gather(
            *(collect(runtime, [i + 3, *PROMPT], greedy()) for i in range(3)),
            return_exceptions=True,
        ),
        DEADLINE,
    )
    assert all(isinstance(r, EngineDeadError) for r in results)
    assert all("moon" in r.message and isinstance(r.__cause__, RuntimeError) for r in results)
    with pytest.raises(EngineDeadError, match="moon"):
        await collect(runtime, PROMPT, greedy())


async def test_logits_that_are_no_numbers_fail_their_request_only(load):
    runtime = await load(NAME, prefix_cache_mode="disable")
    executor = scheduler_of(runtime).executor
    good = ids_of(await collect(runtime, PROMPT, greedy(max_tokens=4)))
    real = executor._compute

    def damaged(spans):
        count = real(spans)
        if any(99 in s.tokens for s in spans):
            executor._logits[:count] = np.nan
        return count

    executor._compute = damaged
    with pytest.raises(InternalEngineError, match="not finite"):
        await collect(runtime, [99, *PROMPT], greedy())
    assert ids_of(await collect(runtime, PROMPT, greedy(max_tokens=4))) == good
    assert_no_page_lost(runtime)


async def test_unload_ends_what_runs_and_frees_the_model(load):
    runtime = await load(NAME)
    executor = weakref.ref(scheduler_of(runtime).executor)
    stream = runtime.generate(PROMPT, greedy(max_tokens=220), request_id="r")
    await anext(stream)
    await asyncio.wait_for(runtime.unload(), DEADLINE)
    ends = [e async for e in stream]
    assert ends[-1].finish_reason == "abort"
    await stream.aclose()
    del stream, ends
    gc.collect()
    assert executor() is None
    await runtime.unload()
    with pytest.raises(ModelNotLoadedError):
        await collect(runtime, PROMPT, greedy())
    with pytest.raises(ModelNotLoadedError):
        _ = runtime.context_window_size


async def test_loading_again_replaces_the_model(load):
    runtime = await load(NAME)
    await runtime.load(source_of(GOLDEN / "odd-sizes-q0f32"), Reports())
    golden = golden_data("odd-sizes-q0f32")
    events = await collect(runtime, golden["prompt"].tolist(), greedy())
    assert ids_of(events) == golden["greedy"].tolist()


async def test_what_does_not_fit_is_refused_with_numbers(load):
    with pytest.raises(InsufficientMemoryError, match=r"needs [\d,]+ bytes .* free"):
        await load(NAME, max_total_sequence_length=1 << 30)


async def test_embed_is_refused(load):
    runtime = await load(NAME)
    assert not runtime.capabilities.embeddings
    with pytest.raises(UnsupportedModelError):
        await runtime.embed([[1, 2]])


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"wheels": 4}, "wheels"),
        ({"threads": 0}, "threads"),
        ({"threads": "many"}, "threads"),
        ({"prefill_chunk_size": 1025}, "prefill_chunk_size"),
        ({"max_num_sequence": True}, "max_num_sequence"),
        ({"device": "tpu"}, "device"),
        ({"prefix_cache_mode": 1}, "prefix_cache_mode"),
        ({"cache_dir": 3}, "cache_dir"),
        ({"verify": "yes"}, "verify"),
    ],
)
def test_options_that_are_wrong(options, param):
    with pytest.raises(BadRequestError) as caught:
        TVMRuntime(options)
    assert caught.value.param == param
    assert param in caught.value.message


def test_the_process_can_end_at_any_time(cache_dir):
    code = f"""
import asyncio
from tests.engine.runtimes.tvm.conftest import *
async def main():
    runtime = TVMRuntime({{"cache_dir": {str(cache_dir)!r}}})
    await runtime.load(source_of(GOLDEN / {NAME!r}), Reports())
    stream = runtime.generate([5, 6], greedy(max_tokens=200), request_id="r")
    await anext(stream)
    print("going", flush=True)
    global keep
    keep = stream, runtime
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "going"), done.stderr
