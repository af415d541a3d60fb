"""Sampling through the engine, by statistics where it is random and exactly where it is not."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from mlc_widget.api.errors import (
    BadRequestError,
    ContextLengthExceededError,
    InternalEngineError,
)
from mlc_widget.api.sampling_defaults import SAMPLING_DEFAULTS
from mlc_widget.engine.runtimes.base import Sampling
from mlc_widget.engine.runtimes.tvm.filters import filtered

from .conftest import chat, engine_on, streamed, user

PROMPT = "the answer to the question is"
DRAWS = 2048
# One draw in a million would fail by chance.
DEVIATIONS = 5.0


@pytest.fixture
def engine(shared_engine):
    return shared_engine


async def distribution(engine, **request) -> dict[int, float]:
    """The model's probabilities of some tokens at the prompt's end, by themselves."""
    made = await engine.completions.create(
        prompt=PROMPT, max_tokens=1, temperature=0, seed=0, logprobs=20, **request
    )
    return {t: math.exp(p) for t, p in made.choices[0].logprobs.top_logprobs[0].items()}


async def counts(engine, *, draws: int = DRAWS, first_seed: int = 0, **request) -> Counter:
    """How often each token is the first of the answer."""

    async def one(seed):
        made = await engine.completions.create(
            prompt=PROMPT, max_tokens=1, n=16, seed=seed, ignore_eos=True, **request
        )
        return [c.text for c in made.choices]

    texts = await asyncio.gather(*map(one, range(first_seed, first_seed + draws // 16)))
    return Counter(text for some in texts for text in some)


def letters(engine) -> dict[int, str]:
    tokenizer = next(iter(engine._core._models)).tokenizer
    return {tokenizer.token_to_id(c): c for c in "aehorst"}


def check(found: Counter, expected: dict[str, float]) -> None:
    """Check that every frequency is within its binomial interval."""
    total = sum(found.values())
    assert set(found) <= {t for t, p in expected.items() if p > 0}
    for token, p in expected.items():
        deviation = math.sqrt(p * (1 - p) / total)
        assert abs(found[token] / total - p) <= DEVIATIONS * deviation + 1e-9, token


@pytest.fixture
async def few(engine):
    """A bias that leaves seven letters, and their probabilities under it."""
    bias = dict.fromkeys(letters(engine), 60.0)
    known = await distribution(engine, logit_bias=bias)
    probabilities = {c: known[c] for c in letters(engine).values()}
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-6)
    return bias, probabilities


@pytest.mark.parametrize(
    "temperature", [*(pytest.param(t, marks=pytest.mark.soak) for t in (0.5, 1.0)), 1.7]
)
async def test_frequencies_are_the_softmax_of_the_temperature(engine, few, temperature):
    bias, p = few
    powers = {c: q ** (1 / temperature) for c, q in p.items()}
    total = sum(powers.values())
    # A higher temperature lets other tokens in: the bias grows with it.
    strong = {t: min(100.0, b * temperature) for t, b in bias.items()}
    found = await counts(engine, logit_bias=strong, temperature=temperature)
    check(found, {c: q / total for c, q in powers.items()})


@pytest.mark.parametrize(
    "top_p", [*(pytest.param(p, marks=pytest.mark.soak) for p in (0.3, 0.95)), 0.7]
)
async def test_top_p_draws_from_the_smallest_set_that_reaches_it(engine, few, top_p):
    bias, p = few
    kept, mass = {}, 0.0
    for token, q in sorted(p.items(), key=lambda item: -item[1]):
        if mass >= top_p:
            break
        kept[token] = q
        mass += q
    found = await counts(engine, logit_bias=bias, top_p=top_p, temperature=1.0)
    check(found, {t: q / mass for t, q in kept.items()})
    assert set(found) == set(kept)


FILTERS = [{"top_k": 3}, {"min_p": 0.4}, {"typical_p": 0.5}, {"top_k": 5, "top_p": 0.6}]


@pytest.mark.parametrize("given", FILTERS, ids=str)
async def test_filters_draw_from_what_they_leave(engine, few, given):
    bias, p = few
    names = sorted(p, key=lambda c: -p[c])
    mass = np.array([p[c] for c in names], np.float32)
    kept = filtered(mass, Sampling(None, 1.0, seed=0, **{"top_p": 1.0, **given}))
    assert 0 < len(kept) < len(names)
    total = float(mass[kept].sum())
    found = await counts(engine, draws=1024, logit_bias=bias, temperature=1.0, **given)
    check(found, {names[i]: float(mass[i]) / total for i in kept})


async def test_dry_ends_repetitions_except_across_breakers(engine):
    token = next(i for i, c in letters(engine).items() if c == "a")

    async def text(**dry):
        made = await chat(
            engine,
            "?",
            max_tokens=12,
            temperature=0,
            ignore_eos=True,
            logit_bias={token: 40},
            **dry,
        )
        return made.choices[0].message.content

    def run(text):
        return len(text) - len(text.lstrip("a"))

    assert await text(dry_multiplier=0, dry_base=5) == "a" * 12
    assert run(await text(dry_multiplier=90)) == 3  # two are allowed, and a third begins
    assert run(await text(dry_multiplier=90, dry_allowed_length=5)) == 6
    assert 3 < run(await text(dry_multiplier=1, dry_base=3)) < 12
    assert await text(dry_multiplier=90, dry_sequence_breakers=["a"]) == "a" * 12


async def test_logit_bias_of_texts(engine):
    tokenizer = next(iter(engine._core._models)).tokenizer
    token = tokenizer.token_to_id("e")
    for by_text in ({"e": 60}, {"e": 60, str(token + 1): -1}):
        made = await chat(engine, "?", max_tokens=3, ignore_eos=True, logit_bias=by_text)
        assert made.choices[0].message.content == "eee"
    ended = await chat(engine, "?", max_tokens=9, logit_bias={"<|im_end|>": 100}, ignore_eos=False)
    assert (ended.choices[0].message.content, ended.choices[0].finish_reason) == ("", "stop")
    for wrong, said in (
        ({"no one token": 1}, r"logit_bias = 'no one token': no token .* written as 'n"),
        ({"e": 1, str(token): 1}, f"token {token}, which has this text, appears twice"),
    ):
        with pytest.raises(BadRequestError, match=said) as caught:
            await chat(engine, "?", logit_bias=wrong)
        assert caught.value.param == "logit_bias"


async def test_a_grammar_keeps_the_proportions_of_what_it_allows(engine, few):
    bias, p = few
    total = p["a"] + p["e"] + p["s"]
    found = await counts(
        engine,
        logit_bias=bias,
        temperature=1.0,
        response_format={"type": "regex", "regex": "[aes]"},
    )
    check(found, {c: p[c] / total for c in "aes"})


async def test_choices_are_independent(engine, few):
    """Pairs of neighbouring choices and of neighbouring seeds have the product's frequencies."""
    bias, p = few

    async def one(seed):
        made = await engine.completions.create(
            prompt=PROMPT, max_tokens=2, n=16, seed=seed, logit_bias=bias, temperature=1.0
        )
        return [c.text for c in made.choices]

    rows = await asyncio.gather(*map(one, range(128)))
    assert all(len(t) == 2 for row in rows for t in row)
    same = sum(row[i][0] == row[i + 1][0] for row in rows for i in range(15)) / (128 * 15)
    pairs = [(a[i][0], b[i][0]) for a, b in pairwise(rows) for i in range(16)]
    next_seed = sum(a == b for a, b in pairs) / len(pairs)
    expected = sum(q * q for q in p.values())
    tolerance = DEVIATIONS * math.sqrt(expected * (1 - expected) / (128 * 15))
    assert abs(same - expected) < 2 * tolerance
    assert abs(next_seed - expected) < 2 * tolerance


# --- exactly --------------------------------------------------------------------------------------


async def test_penalties_change_the_logits_by_their_definition(engine):
    async def logits(**request):
        made = await engine.chat.completions.create(
            messages=user("?"), max_tokens=6, temperature=0, seed=0, ignore_eos=True,
            logprobs=True, top_logprobs=20, **request,
        )  # fmt: skip
        return [
            (t.token, {a.token: a.logprob for a in t.top_logprobs})
            for t in made.choices[0].logprobs.content
        ]

    # One token is forced; what it gains by the bias, it loses by the penalties, step by step.
    token = next(i for i, c in letters(engine).items() if c == "a")
    plain = await logits(logit_bias={token: 50})
    assert [t for t, _ in plain] == ["a"] * 6
    penalised = await logits(logit_bias={token: 50}, frequency_penalty=0.5, presence_penalty=0.25)
    for i, ((_, before), (_, after)) in enumerate(zip(plain, penalised, strict=True)):
        common = [t for t in before if t in after and t != "a"]
        gaps = [(after["a"] - after[t]) - (before["a"] - before[t]) for t in common]
        expected = -(0.5 * i + (0.25 if i else 0))
        assert np.abs(np.array(gaps) - expected).max() < 1e-3


async def test_repetition_penalty_counts_the_prompt_too(engine):
    request = {"messages": user("aaaa"), "max_tokens": 1, "temperature": 0, "logprobs": True,
               "top_logprobs": 20, "seed": 0}  # fmt: skip
    token = next(i for i, c in letters(engine).items() if c == "a")
    plain, punished = [
        (await engine.chat.completions.create(
            **request, logit_bias={token: 30}, repetition_penalty=p
        )).choices[0].logprobs.content[0]
        for p in (1.0, 2.0)
    ]  # fmt: skip
    assert plain.token == "a"
    before = {t.token: t.logprob for t in plain.top_logprobs}
    after = {t.token: t.logprob for t in punished.top_logprobs}
    other = next(t for t in before if t in after and t not in "auser?<|im_start|>\n")
    assert (after["a"] - after[other]) < (before["a"] - before[other])


async def test_defaults_come_from_the_models_configuration(model_folder, cache_dir):
    greedy = {"temperature": 0.0, "top_p": 1.0}
    async with engine_on(model_folder, cache_dir, chat_opts=greedy) as engine:
        [model] = await engine.models.list()
        assert model.model_dump()["default_sampling_params"] == {
            **SAMPLING_DEFAULTS, "temperature": 0.0
        }  # fmt: skip
        texts = {(await chat(engine, "?", seed=s)).choices[0].message.content for s in range(3)}
        assert len(texts) == 1
        other = await chat(engine, "?", seed=1, temperature=1.0)
        assert other.choices[0].message.content not in texts


async def test_stop_strings_across_token_borders(engine):
    free = (await chat(engine, "?", max_tokens=60)).choices[0].message.content
    for start, length in [(5, 3), (11, 1), (20, 7)]:
        stop = free[start : start + length]
        end = free.index(stop)
        for text in (
            (await chat(engine, "?", max_tokens=60, stop=[stop, "never"]))
            .choices[0]
            .message.content,
            await streamed(engine, "?", max_tokens=60, stop=stop),
        ):
            assert text == free[:end]


async def test_stop_ids_end_a_text_unless_they_are_ignored(engine):
    end = {"logit_bias": {2: 8.0}, "max_tokens": 300, "temperature": 1.0}
    stopped = await chat(engine, "?", **end, ignore_eos=False)
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.usage.completion_tokens < 300
    assert "<|im_end|>" not in stopped.choices[0].message.content
    ignored = await chat(engine, "?", **end, ignore_eos=True)
    assert ignored.choices[0].finish_reason == "length"
    assert ignored.usage.completion_tokens == 300


async def test_logprobs_of_a_stream_are_those_of_the_whole(engine):
    request = {"logprobs": True, "top_logprobs": 2, "max_tokens": 20, "temperature": 1.0}
    whole = (await chat(engine, "?", **request)).choices[0]
    parts = []
    async for chunk in await chat(engine, "?", **request, stream=True):
        if chunk.choices[0].logprobs:
            parts += chunk.choices[0].logprobs.content
    assert parts == whole.logprobs.content
    assert len(parts) == 20
    assert b"".join(bytes(t.bytes) for t in parts).decode("utf-8", "ignore")
    for t in parts:
        assert len(t.top_logprobs) == 2
        assert t.logprob <= t.top_logprobs[0].logprob + 1e-9


class Only:
    """Lets nothing but one token through, and notes what was sampled."""

    def __init__(self, token: int, seen: list[int]) -> None:
        self.token, self.seen = token, seen

    def process_logits(self, logits):
        logits[np.arange(len(logits)) != self.token] = -np.inf
        return logits

    def process_sampled_token(self, token_id):
        self.seen.append(token_id)


async def test_registered_logit_processors(model_folder, cache_dir):
    seen: list[int] = []
    processors = {"*": lambda: Only(70, seen)}
    async with engine_on(model_folder, cache_dir, logit_processors=processors) as engine:
        made = await chat(engine, "?", max_tokens=5, n=2, temperature=1.0)
        assert seen == [70] * 10
        assert len({c.message.content for c in made.choices}) == 1
        extra = {"enable_latency_breakdown": True}
        timed = await chat(engine, "?", max_tokens=5, extra_body=extra)
        breakdown = timed.usage.extra["latencyBreakdown"]
        assert len(breakdown["logitProcessorTime"]) == 5
        assert len(breakdown["totalTime"]) == 5


async def test_a_logit_processor_that_fails_fails_its_request_alone(model_folder, cache_dir):
    made = []

    class Sometimes:
        def __init__(self):
            made.append(self)
            self.bad = len(made) == 1

        def process_logits(self, logits):
            return None if self.bad else logits

        def process_sampled_token(self, token_id):
            pass

    async with engine_on(model_folder, cache_dir, logit_processors={"*": Sometimes}) as engine:
        with pytest.raises(InternalEngineError, match="logit processor"):
            await chat(engine, "?")
        assert (await chat(engine, "?")).choices[0].finish_reason == "length"


async def test_latency_is_told_when_asked_for(engine):
    timed = await chat(engine, "?", max_tokens=7, extra_body={"enable_latency_breakdown": True})
    breakdown = timed.usage.extra["latencyBreakdown"]
    assert set(breakdown) == {
        "logitProcessorTime", "logitBiasTime", "penaltyTime", "sampleTime", "totalTime",
        "grammarBitmaskTime",
    }  # fmt: skip
    assert len(breakdown["sampleTime"]) == len(breakdown["totalTime"]) == 7
    assert all(t >= 0 for times in breakdown.values() for t in times)
    assert "latencyBreakdown" not in (await chat(engine, "?")).usage.extra


@pytest.mark.parametrize(
    "edge",
    [{"temperature": 1e-45}, {"temperature": 5e-324}, {"temperature": 9e-6}, {"top_p": 0}],
    ids=str,
)
async def test_the_edge_of_sampling_is_greedy(engine, edge):
    want = await chat(engine, PROMPT, max_tokens=8, temperature=0, ignore_eos=True)
    got = await chat(engine, PROMPT, max_tokens=8, seed=3, ignore_eos=True, **edge)
    assert got.choices[0].message.content == want.choices[0].message.content


@pytest.mark.parametrize(
    "edge",
    [{"temperature": 1e-5}, {"repetition_penalty": 0.01}, {"repetition_penalty": 10},
     {"seed": -1}, {"seed": -(2**63)}, {"seed": 2**64 - 1}, {"seed": np.int64(-5)},
     {"top_p": 5e-324}, {"frequency_penalty": -2, "presence_penalty": -2}],
    ids=str,
)  # fmt: skip
async def test_what_is_taken_at_the_edge_is_answered(engine, edge):
    twice = [
        await chat(engine, PROMPT, max_tokens=20, ignore_eos=True, **{"seed": 3, **edge})
        for _ in range(2)
    ]
    assert twice[0].usage.completion_tokens == 20
    assert twice[0].choices[0].message.content == twice[1].choices[0].message.content


async def test_an_answer_that_was_begun_is_gone_on_with(engine):
    messages = [*user(PROMPT), {"role": "assistant", "content": "the weather in Paris"}]
    answer = await engine.chat.completions.create(
        messages=messages, max_tokens=4, temperature=0, ignore_eos=True
    )
    model = next(iter(engine._core._models))
    written = f"{model.template.render(user(PROMPT)).text}the weather in Paris"
    raw = await engine.completions.create(
        prompt=written, max_tokens=4, temperature=0, ignore_eos=True
    )
    assert answer.choices[0].message.content == raw.choices[0].text
    assert answer.usage.prompt_tokens == raw.usage.prompt_tokens


async def test_a_prompt_that_cannot_fit_is_not_encoded(engine, monkeypatch):
    model = next(iter(engine._core._models))
    monkeypatch.setattr(model.encoder, "run", None)
    for ask in (
        engine.chat.completions.create(messages=user("x" * 4_000_000)),
        engine.completions.create(prompt="x" * 4_000_000),
    ):
        with pytest.raises(ContextLengthExceededError, match="characters"):
            await ask
