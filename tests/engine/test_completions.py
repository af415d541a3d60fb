"""Completions as in OpenAI's API: several prompts, echoes, and log-probabilities of prompts."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError
from mlc_widget.engine.runtimes.base import Sampling

from .conftest import assert_no_page_lost, runtime_of

GREEDY = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}
SCORED = {"echo": True, "logprobs": 3, "max_tokens": 0}
LONG = "the weather in Paris is mild today and the answer to the question is in the text below it "
TEXTS = ["the weather", LONG * 3, '{"id": 17}']


@pytest.fixture
def engine(shared_engine):
    return shared_engine


def ids_of(engine, text: str) -> list[int]:
    return next(iter(engine._core._models)).tokenizer.encode(text)


async def ask(engine, prompt, **request):
    return await engine.completions.create(prompt=prompt, **{**GREEDY, **request})


async def forwarded(engine, ids: list[int]) -> list[dict[int, float]]:
    """The log-probabilities of all tokens after each beginning of a prompt, one by one."""
    runtime = runtime_of(engine)

    async def one(prompt):
        sampling = Sampling(1, 0.0, 1.0, 0, ignore_eos=True, logprobs=True, top_logprobs=512)
        events = runtime.generate(prompt, sampling, request_id=f"{len(prompt)}")
        found = [entry async for event in events for entry in event.logprobs]
        return {token: logprob for token, _, logprob in found[0].top}

    async def every():
        return await asyncio.gather(*(one(ids[:i]) for i in range(1, len(ids))))

    return await engine._home.wait(every)  # where the runtime lives


@pytest.mark.parametrize("text", TEXTS, ids=len)
async def test_a_prompt_s_log_probabilities_are_those_of_a_plain_forward(engine, text):
    ids = ids_of(engine, text)
    want = await forwarded(engine, ids)
    for prompt in (ids, text):
        answer = await ask(engine, prompt, **SCORED)
        [choice] = answer.choices
        assert (choice.text, choice.finish_reason) == (text, "length")
        got = choice.logprobs
        assert "".join(got.tokens) == text
        assert got.text_offset == [len("".join(got.tokens[:i])) for i in range(len(ids))]
        assert (got.token_logprobs[0], got.top_logprobs[0]) == (None, None)
        assert got.token_logprobs[1:] == [d[t] for d, t in zip(want, ids[1:], strict=True)]
        for top, d in zip(got.top_logprobs[1:], want, strict=True):
            assert sorted(top.values())[-3:] == sorted(d.values())[-3:]
        used = answer.usage
        assert (used.prompt_tokens, used.completion_tokens) == (len(ids), 0)
        assert used.prompt_tokens_details.cached_tokens == 0
    await assert_no_page_lost(engine)


async def test_scores_are_the_same_among_others_and_before_an_answer(engine):
    alone = [await ask(engine, text, **SCORED) for text in TEXTS]
    answers = [await ask(engine, text) for text in TEXTS]
    scored = {**SCORED, "max_tokens": 6}
    together = await asyncio.gather(
        *(ask(engine, text, **scored) for text in TEXTS), *(ask(engine, text) for text in TEXTS)
    )
    for text, one, plain, both in zip(TEXTS, alone, answers, together[:3], strict=True):
        assert both.choices[0].text == text + plain.choices[0].text
        got, n = both.choices[0].logprobs, one.usage.prompt_tokens
        assert got.token_logprobs[:n] == one.choices[0].logprobs.token_logprobs
        assert got.top_logprobs[:n] == one.choices[0].logprobs.top_logprobs
        assert len(got.tokens) == n + 6
    assert [a.choices[0].text for a in together[3:]] == [a.choices[0].text for a in answers]


async def test_a_prompt_of_one_token_has_no_log_probability(engine):
    [token] = ids_of(engine, "a")
    answer = await ask(engine, [token], **SCORED)
    assert answer.choices[0].logprobs.token_logprobs == [None]


async def test_a_stream_has_the_same_scores(engine):
    for n in (0, 6):
        whole = await ask(engine, TEXTS[:2], **{**SCORED, "max_tokens": n})
        stream = await ask(engine, TEXTS[:2], **{**SCORED, "max_tokens": n, "stream": True})
        text, scores = ["", ""], [[], []]
        async for chunk in stream:
            [choice] = chunk.choices
            text[choice.index] += choice.text
            if choice.logprobs is not None:
                scores[choice.index] += choice.logprobs.token_logprobs
        assert text == [c.text for c in whole.choices]
        assert scores == [c.logprobs.token_logprobs for c in whole.choices]


async def test_what_is_asked_for_by_lm_eval(engine):
    """Log-likelihoods of continuations, in batches of token ids."""
    contexts, continuations = ["the weather in", "the answer to"], [" Paris", " the question"]
    wholes = [ids_of(engine, a + b) for a, b in zip(contexts, continuations, strict=True)]
    answer = await ask(engine, wholes, echo=True, logprobs=1, max_tokens=1, seed=1234)
    for choice, whole, context in zip(answer.choices, wholes, contexts, strict=True):
        want, start = await forwarded(engine, whole), len(ids_of(engine, context))
        scores = choice.logprobs.token_logprobs[start:-1]
        assert sum(scores) == sum(want[i - 1][whole[i]] for i in range(start, len(whole)))
        for i, top in enumerate(choice.logprobs.top_logprobs[start:-1], start):
            greedy = max(top.values()) == choice.logprobs.token_logprobs[i]
            assert greedy == (max(want[i - 1].values()) == want[i - 1][whole[i]])


@pytest.mark.parametrize("as_ids", [False, True], ids=["texts", "ids"])
async def test_several_prompts_have_n_choices_each(engine, as_ids):
    prompts = [ids_of(engine, t) for t in TEXTS] if as_ids else TEXTS
    request = {"n": 2, "seed": 5, "temperature": 1.0}
    alone = [await ask(engine, prompt, **request) for prompt in prompts]
    answer = await ask(engine, prompts, **request)
    assert [c.index for c in answer.choices] == list(range(6))
    assert [c.text for c in answer.choices] == [c.text for one in alone for c in one.choices]
    assert answer.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone)
    assert answer.usage.completion_tokens == 36
    mixed = await ask(engine, [TEXTS[0], ids_of(engine, TEXTS[1])], **request)
    assert [c.text for c in mixed.choices] == [c.text for c in answer.choices[:4]]


async def test_each_prompt_is_echoed_before_its_own_choices(engine):
    for request in ({"max_tokens": 0}, {"max_tokens": 2}, {"max_tokens": 0, "n": 2}):
        answer = await ask(engine, TEXTS, echo=True, **request)
        n = request.get("n", 1)
        for choice in answer.choices:
            assert choice.text.startswith(TEXTS[choice.index // n])
            assert choice.finish_reason == "length"
        assert answer.usage.completion_tokens == request["max_tokens"] * 3 * n


async def test_the_chosen_token_is_among_its_alternatives(engine):
    for k in (0, 1, 3):
        answer = await ask(engine, TEXTS[0], logprobs=k, temperature=2.0, seed=1, max_tokens=40)
        got = answer.choices[0].logprobs
        for token, logprob, top in zip(
            got.tokens, got.token_logprobs, got.top_logprobs, strict=True
        ):
            assert token in top
            assert math.isclose(max(top.values()), max(top[token], *top.values()))
            assert logprob <= max(top.values())
            assert 1 <= len(top) <= k + 1


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "echo": True, "logprobs": True}, "logprobs"),
        ({"prompt": ["a", ""]}, "prompt[1]"),
        ({"prompt": [[1], []]}, "prompt[1]"),
        ({"prompt": [[1], [-1]]}, "prompt[1][0]"),
        ({"prompt": ["a", 5]}, "prompt[1]"),
        ({"prompt": [["a"]]}, "prompt[0][0]"),
        ({"prompt": ["a"] * 257}, "prompt"),
        ({"prompt": ["a"] * 100, "n": 3}, "n"),
        ({"prompt": ["a" * 2**21] * 3}, "prompt"),
        ({"prompt": [[1], [10**6]]}, "prompt[1]"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_wrong_is_named(engine, request_, param):
    with pytest.raises(BadRequestError) as caught:
        await engine.completions.create(**request_)
    assert caught.value.param == param


async def test_a_runtime_that_cannot_score_prompts_says_so(tiny_model):
    from mlc_widget import AsyncMLCEngine

    engine = AsyncMLCEngine(runtime="scripted", runtime_options={"text": "x"})
    try:
        await engine.reload(str(tiny_model))
        with pytest.raises(UnsupportedFieldError) as caught:
            await engine.completions.create(prompt="a", echo=True, logprobs=1)
        assert caught.value.param in ("echo", "logprobs")
    finally:
        await engine.terminate()


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_template_puts_before_a_text_is_no_part_of_its_echo(engine, stream):
    model = next(iter(engine._core._models))
    bos = ids_of(engine, "{")[0]
    text, other = TEXTS[0], ids_of(engine, TEXTS[2])
    plain = model.template
    # Such as that of a GGUF file whose tokenizer begins texts with a BOS.
    model.template = replace(plain, completion_prefix_token_ids=(bos, bos))
    try:
        want = (await forwarded(engine, [bos, bos, *ids_of(engine, text)]))[1:]
        request = {**SCORED, "max_tokens": 2, "ignore_eos": True, "n": 2}
        if stream:
            chunks = await ask(engine, [text, other], **request, stream=True,
                               stream_options={"include_usage": True})  # fmt: skip
            got = {}
            async for chunk in chunks:
                usage = chunk.usage
                for choice in chunk.choices:
                    text_, tokens, offsets, scores = got.setdefault(choice.index, ([], [], [], []))
                    text_.append(choice.text)
                    if choice.logprobs is not None:
                        tokens += choice.logprobs.tokens
                        offsets += choice.logprobs.text_offset
                        scores += choice.logprobs.token_logprobs
            got = {i: ("".join(t), *rest) for i, (t, *rest) in got.items()}
        else:
            answer = await ask(engine, [text, other], **request)
            usage = answer.usage
            got = {
                c.index: (c.text, c.logprobs.tokens, c.logprobs.text_offset,
                          c.logprobs.token_logprobs)
                for c in answer.choices
            }  # fmt: skip
    finally:
        model.template = plain
    for index, (whole, tokens, offsets, scores) in got.items():
        prompt = text if index < 2 else TEXTS[2]
        ids = ids_of(engine, prompt)
        assert whole.startswith(prompt)
        assert len(tokens) == len(ids) + 2
        assert "".join(tokens[: len(ids)]) == prompt
        at = [len("".join(tokens[:i])) for i in range(len(ids) + 1)]
        assert offsets[: len(ids) + 1] == at
        if index < 2:
            assert scores[: len(ids)] == [d[t] for d, t in zip(want, ids, strict=True)]
        else:  # a prompt of ids is taken as it is
            assert scores[0] is None
    assert usage.prompt_tokens == 2 + len(ids_of(engine, text)) + len(other)
