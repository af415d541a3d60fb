"""What a request and an engine say about their work."""

from __future__ import annotations

import asyncio

import pytest

from mlc_widget import EngineStatistics

from ..waiting import until_idle
from .conftest import chat, engine_on, user

WEBLLM = {
    "e2e_latency_s",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "time_to_first_token_s",
    "time_per_output_token_s",
}
LONG = "the weather in Paris is mild today and " * 12


@pytest.fixture
def engine(shared_engine):
    return shared_engine


async def test_usage_has_webllms_names_and_they_agree(engine):
    made = await chat(engine, LONG, max_tokens=40)
    usage, extra = made.usage, made.usage.extra
    assert set(extra) == WEBLLM
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens == 40
    assert 0 < extra["time_to_first_token_s"] <= extra["e2e_latency_s"]
    decoding = 39 / extra["decode_tokens_per_s"]
    assert decoding == pytest.approx(39 * extra["time_per_output_token_s"])
    assert extra["time_to_first_token_s"] + decoding <= extra["e2e_latency_s"] + 1e-3


async def test_a_stream_ends_with_the_same_usage(engine):
    chunks = [
        c
        async for c in await chat(
            engine, LONG, max_tokens=9, stream=True, stream_options={"include_usage": True}
        )
    ]
    assert all(c.usage is None for c in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 9
    assert set(chunks[-1].usage.extra) == WEBLLM


async def test_grammars_say_what_they_took(engine):
    wanted = {"type": "regex", "regex": "[a-z]{30}"}
    extra = (await chat(engine, "?", response_format=wanted, max_tokens=50)).usage.extra
    assert set(extra) == WEBLLM | {"grammar_init_s", "grammar_per_token_s"}
    assert 0 < extra["grammar_per_token_s"] < extra["time_per_output_token_s"]
    both = (await chat(engine, "?", response_format=wanted, max_tokens=50, n=2)).usage.extra
    assert both["grammar_init_s"] > 0


async def test_cached_tokens_are_told(model_folder, cache_dir):
    async with engine_on(model_folder, cache_dir) as engine:
        first = await chat(engine, LONG, max_tokens=3)
        again = await chat(engine, LONG, max_tokens=3)
        assert first.usage.prompt_tokens_details.cached_tokens == 0
        # All but the last, whose logits are needed.
        cached = again.usage.prompt_tokens_details.cached_tokens
        assert cached == again.usage.prompt_tokens - 1


async def test_metrics_are_sums_under_mlc_llms_names(model_folder, cache_dir):
    async with engine_on(model_folder, cache_dir) as engine:
        assert (await engine.metrics())["finished_requests"] == 0
        made = await asyncio.gather(*(chat(engine, f"{i} {LONG}", max_tokens=7) for i in range(4)))
        stream = await chat(engine, "left", max_tokens=1500, stream=True)  # waits for us
        await anext(stream)
        assert (await engine.metrics())["running_requests"] == 1
        assert await engine.statistics() == EngineStatistics(1, 0, 1)
        await stream.close()
        await until_idle(engine)
        metrics = await engine.metrics()
        assert metrics["finished_requests"] == 5
        assert metrics["completion_tokens_sum"] >= 4 * 7 + 1
        used = [m.usage for m in made]
        fresh = sum(u.prompt_tokens - u.prompt_tokens_details.cached_tokens for u in used)
        assert metrics["prefill_tokens_sum"] >= fresh
        assert metrics["engine_prefill_time_sum"] > 0
        assert metrics["engine_decode_time_sum"] > 0
        assert metrics["last_finished_request"]["prompt_tokens"] > 0
        text = metrics.prometheus_text()
        assert "# TYPE completion_tokens_sum counter" in text
        assert "last_finished_request_ttft_s " in text
        line = await engine.runtime_stats_text()
        assert line.startswith("prefill: ")


async def test_several_choices_share_one_prompt_in_the_usage(engine):
    made = await engine.chat.completions.create(
        messages=user(LONG), n=3, max_tokens=5, ignore_eos=True, seed=2
    )
    assert made.usage.completion_tokens == 15
    alone = await engine.chat.completions.create(
        messages=user(LONG), max_tokens=5, ignore_eos=True, seed=2
    )
    assert made.usage.prompt_tokens == alone.usage.prompt_tokens
