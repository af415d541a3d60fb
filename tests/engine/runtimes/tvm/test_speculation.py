"""Speculation: drafts, when they are used, and that answers are the same to the bit."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from mlc_widget.engine.runtimes.tvm.speculation import MOST_DRAFTED, Drafter, Speculator

from .conftest import assert_no_page_lost, collect, greedy, ids_of, scheduler_of

NAME = "gqa-tied-q4f32_1"
PROMPT = list(range(10, 40))


# --- drafts ---------------------------------------------------------------------------------------


def drafter(tokens):
    made = Drafter(tokens)
    made.follow()
    return made


def test_a_draft_is_what_followed_the_same_tokens():
    tokens = [1, 2, 3, 4, 5, 6, 7, 1, 2, 3]
    assert drafter(tokens).draft(3) == [4, 5, 6]
    assert drafter([1, 2, 3, 4]).draft(3) == []
    assert drafter([5, 2, 3, 4, 1, 2, 3]).draft(3) == []  # two tokens alone are too few
    assert drafter([]).draft(3) == drafter([1]).draft(3) == []
    made = drafter(tokens)
    tokens += [4, 5]
    made.follow()
    assert made.draft(2) == [6, 7]
    tokens += [9]
    made.follow()
    assert made.draft(2) == []


def test_a_text_that_goes_around_is_drafted_around():
    assert drafter([1, 2, 3, 1, 2, 3]).draft(8) == [1, 2, 3, 1, 2, 3, 1, 2]
    assert drafter([9, 9, 9, 9]).draft(3) == [9, 9, 9]


def test_the_last_place_counts_and_is_followed_while_it_is_right():
    tokens = [1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 1, 2, 3]
    made = drafter(tokens)
    assert made.draft(2) == [6, 7]
    tokens.append(4)
    made.follow()
    assert made.draft(2) == [5, 1]


def test_the_rate_is_that_of_predictions_whether_they_are_used_or_not():
    right, wrong = drafter(list(range(50)) * 2), drafter([])
    right.follow()
    assert right.rate > 0.99
    tokens = list(range(50))
    prompt = Drafter(tokens)
    before = prompt.rate
    tokens += range(50)
    prompt.follow(len(tokens))
    assert prompt.rate == before == wrong.rate  # what the prompt repeats tells nothing


# --- when they are used ---------------------------------------------------------------------------


def ready(rate=0.95, balance=5.0):
    made = drafter([1, 2, 3, 4, 5, 6, 7, 8] * 8)
    made.rate, made.balance = rate, balance
    return made


def lengths(speculator, *drafters, rows=100, mixed=False):
    return [len(draft) for draft in speculator.draft(drafters, rows=rows, mixed=mixed)]


def measured(cost):
    """A speculator that has seen steps of up to 32 rows; each row takes the part `cost` of one."""
    made = Speculator("auto")
    for rows in range(1, 33):
        made.stepped(rows, 1 + cost * (rows - 1), [ready() for _ in range(min(rows, 1))], 0)
    return made


def test_drafts_are_as_long_as_it_pays():
    assert lengths(measured(0.05), ready()) == [MOST_DRAFTED]
    assert lengths(measured(0.05), ready(rate=0.5)) == [3]
    assert lengths(measured(0.05), ready(rate=0.05)) == [0]
    assert lengths(measured(1.0), ready()) == [0]
    assert lengths(measured(0.05), ready(balance=0.2)) == [3]
    assert lengths(measured(0.05), ready(balance=-1)) == [0]
    assert lengths(measured(0.05), drafter([1, 2, 3])) == [0]


def drafted(speculator, prompt, answer):
    """How many tokens are drafted for an answer, with each of its tokens."""
    tokens, counts = list(prompt), []
    made = Drafter(tokens)
    for token in answer:
        made.follow(len(prompt))
        counts += lengths(speculator, made)
        speculator.stepped(1 + counts[-1], 1 + 0.01 * counts[-1], [made], 0)
        tokens.append(token)
    return counts


@pytest.mark.parametrize("cost", [0.0, 0.01, 0.1])
def test_nothing_is_drafted_before_a_prediction_has_come_true(cost):
    """Each three words of the prompt go on otherwise in the answer; then one of them does not."""
    words = [[4 * i, 4 * i + 1, 4 * i + 2] for i in range(50)]
    prompt = [token for i, word in enumerate(words) for token in (*word, 4 * i + 3)]
    answer = [token for i, word in enumerate(words) for token in (*word, 1000 + i)]
    for length in (20, 200):
        assert sum(drafted(measured(cost), prompt, answer[:length])) == 0
    assert sum(drafted(measured(cost), prompt, prompt[:20])[:4]) == 0
    assert sum(drafted(measured(cost), prompt, prompt[:20])) > 0


def test_a_short_answer_that_repeats_the_prompt_gains_at_once():
    text = list(range(300))
    counts = drafted(measured(0.1), [*text, 0, 1, 2], text[3:23])
    assert 0 < next(i for i, count in enumerate(counts) if count) <= 2


def test_drafts_do_not_slow_others_down():
    quick = measured(0.02)
    assert lengths(quick, ready(), ready()) == [15, 15]
    assert lengths(quick, *[ready()] * 4) == [7] * 4  # 32 rows
    assert lengths(quick, ready(), drafter([1, 2, 3])) == [0, 0]
    assert lengths(quick, ready(), ready(rate=0.01)) == [0, 0]
    assert lengths(quick, ready(), mixed=True) == [0]
    assert lengths(quick, ready(), rows=2) == [1]
    assert lengths(quick) == []


def test_modes():
    assert lengths(Speculator("always"), ready(rate=0), ready(balance=-5), mixed=True) == [15, 15]
    assert lengths(Speculator("disable"), ready()) == [0]


def test_predictions_that_are_always_wrong_cost_a_hundredth_at_most():
    """Steps are simulated in which each draft fails, after its first tokens were ever so right."""
    speculator, chance = measured(0.12), random.Random(5)
    liar, spent, steps = ready(rate=0.9, balance=0.25), 0.0, 4000
    for _ in range(steps):
        [draft] = speculator.draft([liar], rows=100, mixed=False)
        rows = 1 + len(draft)
        seconds = (1 + 0.12 * (rows - 1)) * chance.uniform(0.95, 1.05)
        spent += 0.12 * (rows - 1)
        speculator.stepped(rows, seconds, [liar], 0)
    assert 0 < spent < 0.25 + 0.02 * steps


# --- the same bits --------------------------------------------------------------------------------

FEW = dict.fromkeys((70, 71, 72), 100.0)
"""Three tokens alone: texts repeat themselves often, and as often they do not."""
SETTINGS = {
    "greedy": {"max_tokens": 150},
    "temperature": {"temperature": 1.0, "logit_bias": FEW, "max_tokens": 150},
    "another seed": {"temperature": 0.7, "seed": 99, "logit_bias": FEW, "max_tokens": 99},
    "another choice": {"temperature": 0.7, "seed": 99, "choice": 1, "logit_bias": FEW},
    "logprobs": {"temperature": 1.0, "logit_bias": FEW, "logprobs": True, "top_logprobs": 3},
    "prompt logprobs": {"logprobs": True, "prompt_logprobs": True, "logit_bias": FEW},
    "penalties": {"logit_bias": FEW, "frequency_penalty": 0.2, "repetition_penalty": 1.2},
    "filters": {"temperature": 1.5, "top_k": 2, "top_p": 0.9, "min_p": 0.1, "logit_bias": FEW},
    "dry": {"temperature": 1.0, "logit_bias": FEW, "dry_multiplier": 0.5, "max_tokens": 80},
    "grammar": {"temperature": 1.0, "grammar": "start: /([a-c][d-e]){4,30}/", "max_tokens": 90},
    "stop string": {"temperature": 1.0, "logit_bias": FEW, "stop": ("aaa", "cbc", "GGG", "HGH")},
    "stop token": {"temperature": 1.0, "logit_bias": {**FEW, 5: 97.0}, "stop_token_ids": (5,)},
    "one token": {"max_tokens": 1, "logit_bias": FEW},
    "two tokens": {"max_tokens": 2, "logit_bias": FEW},
    "to the window's end": {"max_tokens": None, "temperature": 1.0, "logit_bias": FEW},
    "resumed": {"temperature": 1.0, "logit_bias": FEW, "resume": (70, 71, 70, 71, 70, 71)},
}


def outcome(events):
    """All that a reader gets; times left out."""
    return [replace(event, stats=None) for event in events]


def counted(events):
    stats = events[-1].stats
    return stats.prompt_tokens, stats.completion_tokens


async def test_answers_are_the_same_to_the_bit(load):
    plain = await load(NAME, speculative_mode="disable")
    always = await load(NAME, speculative_mode="always")
    settings = {name: greedy(**changes) for name, changes in SETTINGS.items()}

    async def run(runtime, name):
        return await collect(runtime, [*PROMPT, *PROMPT], settings[name], request_id=name)

    expected = {name: await run(plain, name) for name in settings}
    drafted = accepted = 0
    for name, want in expected.items():
        got = await run(always, name)
        assert outcome(got) == outcome(want), name
        assert counted(got) == counted(want), name
        drafted += got[-1].stats.draft_tokens
        accepted += got[-1].stats.accepted_draft_tokens
        assert want[-1].stats.draft_tokens == 0
    assert 100 < accepted < drafted  # many were right, and many had to be taken back
    beside = await asyncio.gather(*(run(always, name) for name in settings))
    for name, got in zip(settings, beside, strict=True):
        assert outcome(got) == outcome(expected[name]), f"{name}, among others"
    assert_no_page_lost(always)
    # The cache of prefixes holds what was accepted, and nothing else.
    turn = [*PROMPT, *PROMPT, *ids_of(expected["temperature"]), 50, 51]
    again = [await collect(runtime, turn, settings["logprobs"]) for runtime in (plain, always)]
    assert again[0][-1].stats.cached_tokens == again[1][-1].stats.cached_tokens > len(PROMPT)
    assert outcome(again[0]) == outcome(again[1])


async def test_steps_are_saved_where_the_text_repeats_itself(load, monkeypatch):
    # As if each row took a twentieth of a step: the times of so small a model say little.
    monkeypatch.setattr(Speculator, "_cost", lambda self, count, rows: 1 + 0.05 * (rows - count))
    monkeypatch.setattr(Speculator, "stepped", lambda *args: None)
    runtime = await load(NAME)
    executor = scheduler_of(runtime).executor
    before = executor.steps
    events = await collect(runtime, PROMPT, greedy(max_tokens=200, logit_bias={70: 100.0}))
    stats = events[-1].stats
    assert executor.steps - before == 200 - stats.accepted_draft_tokens
    assert stats.accepted_draft_tokens > 100


async def test_drafts_fit_into_a_cache_that_is_short(load):
    prompts = [[i + 3, *PROMPT] for i in range(5)]
    sampling = greedy(temperature=1.0, logit_bias=FEW, max_tokens=100)
    plain = await load(NAME, speculative_mode="disable")
    expected = [ids_of(await collect(plain, p, sampling)) for p in prompts]
    tight = await load(NAME, max_total_sequence_length=256, speculative_mode="always")
    results = await asyncio.gather(*(collect(tight, p, sampling) for p in prompts))
    assert [ids_of(r) for r in results] == expected
    assert_no_page_lost(tight)


async def test_a_stream_can_be_left_amid_drafts(load):
    runtime = await load(NAME, speculative_mode="always")
    sampling = greedy(temperature=1.0, logit_bias=FEW, max_tokens=200)
    stream = runtime.generate(PROMPT, sampling, request_id="left")
    for _ in range(30):
        await anext(stream)
    await stream.aclose()
    assert len(ids_of(await collect(runtime, PROMPT, sampling))) == 200
    assert await asyncio.to_thread(scheduler_of(runtime).wait_idle, 60)
    assert_no_page_lost(runtime)


@pytest.mark.parametrize("mode", ["ngram", True, 1])
async def test_a_mode_that_does_not_exist(load, mode):
    from mlc_widget.api.errors import BadRequestError

    with pytest.raises(BadRequestError, match="speculative_mode is"):
        await load(NAME, speculative_mode=mode)
