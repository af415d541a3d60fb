"""Every engine answers in the same way: shapes, streams, choices, sampling."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest
from openai.types import Completion, CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from mlc_widget.api.errors import UnsupportedFieldError, UnsupportedModelError

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}
HELLO = [{"role": "user", "content": "Hello!"}]


def needs(driver: Any, *fields: str) -> None:
    missing = [f for f in fields if f not in driver.fields]
    if missing:
        pytest.skip(f"this runtime does not honour {', '.join(missing)}; see the next test")


def text_of(chunks: list[Any], index: int = 0) -> str:
    return "".join(
        c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == index
    )


async def test_the_shape_of_a_whole_answer(driver: Any) -> None:
    answer = await driver.chat(**GREEDY)
    assert type(answer) is ChatCompletion
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == driver.model
    assert answer.created > 1_600_000_000
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert choice.message.role == "assistant"
    assert type(choice.message.content) is str


async def test_usage_counts(driver: Any) -> None:
    usage = (await driver.chat(**GREEDY)).usage
    assert type(usage) is CompletionUsage
    assert usage.completion_tokens == 24
    assert usage.prompt_tokens > 5
    assert usage.total_tokens == usage.prompt_tokens + 24


async def test_usage_has_web_llms_times(driver: Any) -> None:
    extra = (await driver.chat(**GREEDY)).usage.extra
    for name in (
        "e2e_latency_s",
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "time_to_first_token_s",
        "time_per_output_token_s",
    ):
        assert extra[name] > 0, name


async def test_greedy_answers_repeat(driver: Any) -> None:
    assert await driver.text(**GREEDY) == await driver.text(**GREEDY)


async def test_a_stream_says_what_the_whole_answer_says(driver: Any) -> None:
    chunks = await (await driver.stream(**GREEDY)).all()
    assert all(type(c) is ChatCompletionChunk for c in chunks)
    assert text_of(chunks) == await driver.text(**GREEDY)


async def test_the_chunks_of_a_stream_belong_together(driver: Any) -> None:
    chunks = await (await driver.stream(**GREEDY)).all()
    assert len({c.id for c in chunks}) == 1
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    assert {c.model for c in chunks} == {driver.model}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].delta.role for c in chunks[1:]] == [None] * (len(chunks) - 1)
    reasons = [c.choices[0].finish_reason for c in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["length"]


async def test_usage_comes_last_if_asked_for(driver: Any) -> None:
    chunks = await (await driver.stream(**GREEDY, stream_options={"include_usage": True})).all()
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 24
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)


async def test_usage_does_not_come_unasked(driver: Any) -> None:
    chunks = await (await driver.stream(**GREEDY)).all()
    assert all(c.usage is None and c.choices for c in chunks)


async def test_one_token(driver: Any) -> None:
    answer = await driver.chat(**{**GREEDY, "max_tokens": 1})
    assert answer.usage.completion_tokens == 1
    assert answer.choices[0].finish_reason == "length"


async def test_max_completion_tokens_is_max_tokens(driver: Any) -> None:
    params = {k: v for k, v in GREEDY.items() if k != "max_tokens"}
    answer = await driver.chat(**params, max_completion_tokens=3)
    assert answer.usage.completion_tokens == 3
    completion = await driver.complete(prompt="a", ignore_eos=True, max_completion_tokens=3)
    assert completion.usage.completion_tokens == 3


async def test_several_choices(driver: Any) -> None:
    answer = await driver.chat(n=3, seed=5, max_tokens=8, ignore_eos=True)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert len({c.message.content for c in answer.choices}) > 1
    assert answer.usage.completion_tokens == 24


async def test_several_choices_of_a_stream(driver: Any) -> None:
    params = {"n": 3, "seed": 5, "max_tokens": 8, "ignore_eos": True}
    chunks = await (await driver.stream(**params)).all()
    whole = await driver.chat(**params)
    for choice in whole.choices:
        mine = [c for c in chunks if c.choices[0].index == choice.index]
        assert mine[0].choices[0].delta.role == "assistant"
        assert [c.choices[0].finish_reason for c in mine].count("length") == 1
        if driver.batch_invariant:
            assert text_of(chunks, choice.index) == choice.message.content


async def test_a_seed_repeats(driver: Any) -> None:
    params = {"seed": 7, "temperature": 1.0, "max_tokens": 24, "ignore_eos": True}
    assert await driver.text(**params) == await driver.text(**params)


async def test_seeds_differ(driver: Any) -> None:
    texts = {
        await driver.text(seed=s, temperature=1.0, max_tokens=24, ignore_eos=True)
        for s in (0, 1, 2**63 - 1)
    }
    assert len(texts) == 3


async def test_without_a_seed_answers_differ(driver: Any) -> None:
    params = {"temperature": 1.5, "max_tokens": 24, "ignore_eos": True}
    assert len({await driver.text(**params) for _ in range(3)}) > 1


async def test_a_seed_gives_the_same_text_among_others(driver: Any) -> None:
    if not driver.batch_invariant:
        pytest.skip("this runtime does not claim it")
    params = {"temperature": 1.0, "max_tokens": 16, "ignore_eos": True}
    alone = [await driver.text(seed=s, **params) for s in range(4)]
    together = await asyncio.gather(*(driver.text(seed=s, **params) for s in range(4)))
    assert together == alone


async def test_temperature_zero_needs_no_seed(driver: Any) -> None:
    assert await driver.text(**GREEDY, seed=1) == await driver.text(**GREEDY, seed=2)


async def test_a_tiny_top_p_is_greedy(driver: Any) -> None:
    params = {**GREEDY, "temperature": 1.0, "top_p": 1e-6}
    assert await driver.text(**params) == await driver.text(**GREEDY)


async def test_a_stop_string_ends_the_text_before_it(driver: Any) -> None:
    text = await driver.text(**GREEDY)
    stop = text[len(text) // 2 :][:3]
    answer = await driver.chat(**GREEDY, stop=stop)
    assert answer.choices[0].message.content == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


async def test_the_first_of_several_stop_strings_counts(driver: Any) -> None:
    text = await driver.text(**GREEDY)
    late, early = text[-4:-2], text[4:6]
    ended = await driver.text(**GREEDY, stop=[late, early, "never"])
    assert ended == text[: min(text.index(late), text.index(early))]


async def test_a_stream_never_shows_a_stop_string(driver: Any) -> None:
    text = await driver.text(**GREEDY)
    stop = text[len(text) // 2 :][:4]
    chunks = await (await driver.stream(**GREEDY, stop=stop)).all()
    assert text_of(chunks) == text[: text.index(stop)]
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_logit_bias_forces_a_token(driver: Any) -> None:
    needs(driver, "logit_bias", "logprobs")
    answer = await driver.chat(**{**GREEDY, "max_tokens": 4}, logit_bias={"77": 100}, logprobs=True)
    tokens = [t.token for t in answer.choices[0].logprobs.content]
    assert len(set(tokens)) == 1
    assert answer.choices[0].message.content == "".join(tokens)


async def test_logit_bias_takes_a_tokens_text(driver: Any) -> None:
    needs(driver, "logit_bias", "logprobs")
    params = {**GREEDY, "max_tokens": 4}
    by_id = await driver.chat(**params, logit_bias={"77": 100}, logprobs=True)
    text = by_id.choices[0].logprobs.content[0].token
    assert await driver.text(**params, logit_bias={text: 100}) == by_id.choices[0].message.content


async def test_logit_bias_bans_a_token(driver: Any) -> None:
    needs(driver, "logit_bias")
    first = await driver.text(**{**GREEDY, "max_tokens": 1})
    # Whichever id it has: some of them are banned at a time, those of a small vocabulary first.
    for ids in (range(3, 250), *(range(i, i + 4000) for i in range(250, 300_000, 4000))):
        banned = dict.fromkeys(map(str, ids), -100.0)
        if await driver.text(**{**GREEDY, "max_tokens": 1}, logit_bias=banned) != first:
            return
    pytest.fail("no ban changed the first token")


async def test_logprobs_of_an_answer(driver: Any) -> None:
    needs(driver, "logprobs")
    answer = await driver.chat(**GREEDY, logprobs=True)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    assert all(t.logprob <= 0 for t in tokens)
    assert all(t.top_logprobs == [] for t in tokens)
    data = b"".join(bytes(t.bytes) for t in tokens)
    assert data.decode("utf-8", "replace").startswith(answer.choices[0].message.content[:4])


async def test_top_logprobs(driver: Any) -> None:
    needs(driver, "logprobs", "top_logprobs")
    answer = await driver.chat(**GREEDY, logprobs=True, top_logprobs=5)
    for token in answer.choices[0].logprobs.content:
        top = token.top_logprobs
        assert len(top) == 5
        assert [t.logprob for t in top] == sorted((t.logprob for t in top), reverse=True)
        assert top[0].bytes == token.bytes, "greedy takes the most probable"
        assert math.isclose(top[0].logprob, token.logprob, abs_tol=1e-5)
        assert sum(math.exp(t.logprob) for t in top) <= 1.0001


async def test_the_logprobs_of_a_stream(driver: Any) -> None:
    needs(driver, "logprobs", "top_logprobs")
    params = {**GREEDY, "logprobs": True, "top_logprobs": 2}
    whole = (await driver.chat(**params)).choices[0].logprobs.content
    chunks = await (await driver.stream(**params)).all()
    streamed = [t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert [t.bytes for t in streamed] == [t.bytes for t in whole]


@pytest.mark.parametrize(
    ("field", "value"),
    [("frequency_penalty", 2.0), ("presence_penalty", 2.0), ("repetition_penalty", 5.0)],
)
async def test_a_penalty_changes_the_text(driver: Any, field: str, value: float) -> None:
    needs(driver, field)
    # A penalty must have an effect on a token that is repeated.
    params = {**GREEDY, "temperature": 0, "max_tokens": 40}
    assert await driver.text(**params, **{field: value}) != await driver.text(**params)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frequency_penalty", 0.5),
        ("presence_penalty", 0.5),
        ("repetition_penalty", 1.1),
        ("top_k", 20),
        ("min_p", 0.05),
        ("typical_p", 0.9),
        ("dry_multiplier", 0.8),
        ("dry_base", 1.5),
        ("dry_allowed_length", 3),
        ("dry_sequence_breakers", ["\n"]),
        ("logit_bias", {"7": 1.0}),
        ("logprobs", True),
        ("response_format", {"type": "json_object"}),
        ("ignore_eos", True),
    ],
)
async def test_a_field_is_honoured_or_refused_by_name(driver: Any, field: str, value: Any) -> None:
    request = driver.chat(**{"max_tokens": 2, field: value})
    if field in driver.fields:
        assert (await request).choices[0].finish_reason in ("length", "stop")
    else:
        with pytest.raises(UnsupportedFieldError, match=field) as caught:
            await request
        assert caught.value.param == field


async def test_values_that_ask_for_nothing_are_taken_everywhere(driver: Any) -> None:
    nothing = {
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "repetition_penalty": 1,
        "top_k": -1,
        "min_p": 0,
        "typical_p": 1,
        "dry_multiplier": 0,
        "logit_bias": {},
        "logprobs": False,
        "response_format": {"type": "text"},
        "n": 1,
        "tools": [],
        "user": "me",
        "stop": None,
    }
    params = {k: v for k, v in GREEDY.items() if k != "ignore_eos"}
    assert await driver.text(**params, **nothing) == await driver.text(**params)


async def test_labels_and_neutral_values_change_nothing(driver: Any) -> None:
    labels = {
        "user": "me",
        "metadata": {"of": "mine"},
        "safety_identifier": "x",
        "prompt_cache_key": "x",
        "store": False,
        "service_tier": "auto",
        "modalities": ["text"],
    }
    params = {k: v for k, v in GREEDY.items() if k != "ignore_eos"}
    assert await driver.text(**params, **labels) == await driver.text(**params)


async def test_a_schema_holds(driver: Any) -> None:
    needs(driver, "response_format")
    schema = {
        "type": "object",
        "properties": {"yes": {"type": "boolean"}, "size": {"enum": ["small", "large"]}},
        "required": ["yes", "size"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    text = await driver.text(response_format=wanted, temperature=0, max_tokens=100)
    answer = json.loads(text)
    assert type(answer["yes"]) is bool
    assert answer["size"] in ("small", "large")


async def test_what_is_openais_extra_body_counts(driver: Any) -> None:
    params = {"temperature": 0, "max_tokens": 24}
    answer = await driver.text(**params, extra_body={"ignore_eos": True})
    assert answer == await driver.text(**GREEDY)


async def test_text_parts_are_joined(driver: Any) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]
    answer = await driver.text(**GREEDY, messages=[{"role": "user", "content": parts}])
    assert answer == await driver.text(**GREEDY)


async def test_a_developer_message_is_a_system_message(driver: Any) -> None:
    texts = [
        await driver.text(**GREEDY, messages=[{"role": role, "content": "Be brief."}, *HELLO])
        for role in ("system", "developer")
    ]
    assert texts[0] == texts[1] != await driver.text(**GREEDY)


async def test_history_counts(driver: Any) -> None:
    history = [*HELLO, {"role": "assistant", "content": "Hi there."}]
    longer = await driver.chat(**GREEDY, messages=[*history, *HELLO])
    assert longer.usage.prompt_tokens > (await driver.chat(**GREEDY)).usage.prompt_tokens
    assert longer.choices[0].message.content != await driver.text(**GREEDY)


async def test_openais_message_objects_may_come_back(driver: Any) -> None:
    first = (await driver.chat(**GREEDY)).choices[0].message
    as_dict = {"role": "assistant", "content": first.content}
    texts = [await driver.text(**GREEDY, messages=[*HELLO, m, *HELLO]) for m in (first, as_dict)]
    assert texts[0] == texts[1]


async def test_the_model_may_be_named(driver: Any) -> None:
    answer = await driver.chat(**GREEDY, model=driver.model)
    assert answer.model == driver.model


async def test_a_request_id_becomes_the_answers_id(driver: Any) -> None:
    assert (await driver.chat(**GREEDY, request_id="mine")).id == "mine"
    chunks = await (await driver.stream(**GREEDY, request_id="mine")).all()
    assert {c.id for c in chunks} == {"mine"}


async def test_the_shape_of_a_completion(driver: Any) -> None:
    answer = await driver.complete(**GREEDY)
    assert type(answer) is Completion
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert (answer.choices[0].index, answer.choices[0].finish_reason) == (0, "length")
    assert answer.usage.completion_tokens == 24


async def test_a_streamed_completion(driver: Any) -> None:
    chunks = await (await driver.stream_completion(**GREEDY)).all()
    assert all(type(c) is Completion for c in chunks)
    text = "".join(c.choices[0].text for c in chunks)
    assert text == (await driver.complete(**GREEDY)).choices[0].text
    reasons = [c.choices[0].finish_reason for c in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["length"]


async def test_a_completion_of_token_ids(driver: Any) -> None:
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(f"{driver.model}/tokenizer.json").encode("hello world").ids
    by_ids = await driver.complete(**GREEDY, prompt=ids)
    assert by_ids.usage.prompt_tokens == len(ids)
    assert by_ids.choices[0].text == (await driver.complete(**GREEDY)).choices[0].text


async def test_a_completion_may_echo_its_prompt(driver: Any) -> None:
    plain = (await driver.complete(**GREEDY)).choices[0].text
    echoed = await driver.complete(**GREEDY, echo=True)
    assert echoed.choices[0].text == "hello world" + plain
    assert echoed.usage.completion_tokens == 24
    chunks = await (await driver.stream_completion(**GREEDY, echo=True)).all()
    assert "".join(c.choices[0].text for c in chunks) == "hello world" + plain


async def test_several_choices_of_a_completion(driver: Any) -> None:
    answer = await driver.complete(n=2, seed=3, max_tokens=6, ignore_eos=True)
    assert [c.index for c in answer.choices] == [0, 1]


async def test_the_logprobs_of_a_completion(driver: Any) -> None:
    needs(driver, "logprobs")
    answer = await driver.complete(**GREEDY, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == 24
    assert len(logprobs.text_offset) == len(logprobs.top_logprobs) == 24
    assert all(1 <= len(top) <= 3 for top in logprobs.top_logprobs)
    assert logprobs.text_offset[0] == 0
    assert logprobs.text_offset == sorted(logprobs.text_offset)


async def test_web_llms_logprobs_of_a_completion(driver: Any) -> None:
    needs(driver, "logprobs", "top_logprobs")
    params = {**GREEDY, "logprobs": True, "top_logprobs": 2}
    whole = (await driver.complete(**params)).choices[0].logprobs.content
    assert len(whole) == 24
    assert all(len(t["top_logprobs"]) == 2 for t in whole)
    chunks = await (await driver.stream_completion(**params)).all()
    streamed = [t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert [t["bytes"] for t in streamed] == [t["bytes"] for t in whole]
    assert (await driver.complete(**GREEDY, logprobs=False)).choices[0].logprobs is None


async def test_a_model_without_embeddings_says_so(driver: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="no embeddings"):
        await driver.call("embeddings.create", input="hello")
