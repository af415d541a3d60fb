"""What a user gets from mlc_llm through a kernel engine: on the stand-in, and on the real one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

from mlc_widget import AsyncKernelMLCEngine
from mlc_widget.api.errors import (
    BadRequestError,
    ContextLengthExceededError,
    UnsupportedFieldError,
    UnsupportedModelError,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = [{"role": "user", "content": "Hello"}]


async def stream(engine: AsyncKernelMLCEngine, **request: Any) -> tuple[str, Any]:
    """The joined text of a streamed chat, and its last finish reason."""
    text, reason = "", None
    request = {"messages": HELLO, **request}
    async for chunk in await engine.chat.completions.create(stream=True, **request):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    return text, reason


async def test_an_answer(engine: AsyncKernelMLCEngine) -> None:
    answer = await engine.chat.completions.create(messages=HELLO, max_tokens=12, temperature=0)
    choice = answer.choices[0]
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 1 <= answer.usage.completion_tokens <= 12
    extra = answer.usage.extra
    assert {"prefill_tokens_per_s", "decode_tokens_per_s", "time_to_first_token_s"} <= extra.keys()
    assert extra["e2e_latency_s"] > 0
    assert "prefill:" in await engine.runtime_stats_text()
    assert await engine.get_message() == choice.message.content


async def test_it_says_what_it_is(engine: AsyncKernelMLCEngine) -> None:
    info = await engine.device_info()
    assert info["runtime"] == "mlc_llm"
    assert info["batch_invariant"] is False
    assert info["fresh_process_needed"] is True
    assert ":" in info["device"]


async def test_a_stream_gives_what_the_whole_answer_is(engine: AsyncKernelMLCEngine) -> None:
    request: dict[str, Any] = {"max_tokens": 24, "temperature": 0}
    whole = await engine.chat.completions.create(messages=HELLO, **request)
    text, reason = await stream(engine, **request)
    assert text == whole.choices[0].message.content
    assert reason == whole.choices[0].finish_reason


async def test_max_tokens_ends_with_length_and_is_counted(engine: AsyncKernelMLCEngine) -> None:
    answer = await engine.completions.create(
        prompt="Hello", max_tokens=5, extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


async def test_a_seed_gives_the_same_text_again(engine: AsyncKernelMLCEngine) -> None:
    texts = [(await stream(engine, seed=3, temperature=1.0, max_tokens=20))[0] for _ in range(2)]
    assert texts[0] == texts[1]


async def test_choices_of_one_request_differ(engine: AsyncKernelMLCEngine) -> None:
    answer = await engine.chat.completions.create(
        messages=HELLO, n=4, seed=5, temperature=1.5, max_tokens=24
    )
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    assert len({c.message.content for c in answer.choices}) > 1


@pytest.mark.parametrize("ignore_eos", [False, True])
async def test_a_stop_string_ends_the_text_exactly_before_it(
    engine: AsyncKernelMLCEngine, ignore_eos: bool
) -> None:
    request: dict[str, Any] = {"prompt": "Hello", "temperature": 0, "max_tokens": 40}
    request["extra_body"] = {"ignore_eos": ignore_eos}
    whole = (await engine.completions.create(**request)).choices[0].text
    stop = whole[8:11]  # in the midst of a token as often as not
    answer = await engine.completions.create(stop=[stop], **request)
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 40


@pytest.mark.parametrize("seed", range(4))
async def test_where_the_end_is_ignored_its_text_ends_nothing(
    engine: AsyncKernelMLCEngine, seed: int
) -> None:
    answer = await engine.completions.create(
        prompt="Hello", seed=seed, max_tokens=400, extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 400


async def test_more_alternatives_than_it_survives_are_refused(engine: AsyncKernelMLCEngine) -> None:
    for count in (6, 20):
        with pytest.raises(BadRequestError) as raised:
            await engine.chat.completions.create(
                messages=HELLO, max_tokens=2, logprobs=True, top_logprobs=count
            )
        assert raised.value.param == "top_logprobs"


async def test_log_probabilities_have_every_token_to_the_byte(engine: AsyncKernelMLCEngine) -> None:
    answer = await engine.chat.completions.create(
        messages=HELLO,
        max_tokens=20,
        temperature=0,
        logprobs=True,
        top_logprobs=5,
        extra_body={"ignore_eos": True},
    )
    entries = answer.choices[0].logprobs.content
    assert len(entries) == 20
    data = b"".join(bytes(e.bytes) for e in entries)
    text = data.decode("utf-8", "replace").rstrip("\ufffd")
    assert (answer.choices[0].message.content or "").startswith(text)
    assert all(e.logprob <= 0 for e in entries)
    assert all(0 < len(e.top_logprobs) <= 5 for e in entries)


async def test_a_whole_completion_has_all_its_log_probabilities(
    engine: AsyncKernelMLCEngine,
) -> None:
    answer = await engine.completions.create(
        prompt="Hello", max_tokens=9, temperature=0, logprobs=2, extra_body={"ignore_eos": True}
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert len(logprobs.tokens or ()) == len(logprobs.token_logprobs or ()) == 9


async def test_leaving_a_stream_frees_the_engine(engine: AsyncKernelMLCEngine) -> None:
    for _ in range(8):  # more than mlc_llm's mode "local" takes at once
        chunks = await engine.chat.completions.create(
            messages=HELLO, stream=True, max_tokens=2000, extra_body={"ignore_eos": True}
        )
        async for _chunk in chunks:
            break
        await chunks.aclose()
    text, _ = await asyncio.wait_for(stream(engine, max_tokens=5, temperature=0), 30)
    assert text


async def test_an_interrupt_ends_what_runs_with_abort(engine: AsyncKernelMLCEngine) -> None:
    chunks = await engine.chat.completions.create(
        messages=HELLO, stream=True, max_tokens=2000, extra_body={"ignore_eos": True}
    )
    reasons = []
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            if not reasons:
                await engine.interrupt_generate()
            reasons.append(chunk.choices[0].finish_reason)
    assert reasons[-1] == "abort"


async def test_many_at_once(engine: AsyncKernelMLCEngine) -> None:
    answers = await asyncio.gather(
        *(stream(engine, seed=i, temperature=1.0, max_tokens=30) for i in range(12))
    )
    assert all(text and reason in ("stop", "length") for text, reason in answers)


@pytest.mark.parametrize(
    ("request_fields", "error", "named"),
    [
        ({"prompt": [2**31 - 1]}, BadRequestError, "prompt"),
        ({"logit_bias": {str(2**31 - 1): 5}}, BadRequestError, "logit_bias"),
        ({"prompt": [5] * 200_000}, ContextLengthExceededError, "prompt"),
        ({"temperature": -1}, BadRequestError, "temperature"),
        ({"top_p": 2}, BadRequestError, "top_p"),
        ({"n": 0}, BadRequestError, "n"),
        ({"max_tokens": 0}, BadRequestError, "max_tokens"),
        ({"prompt": ""}, BadRequestError, "prompt"),
        ({"extra_body": {"repetition_penalty": 1.1}}, UnsupportedFieldError, "repetition_penalty"),
        ({"top_k": 40}, UnsupportedFieldError, "top_k"),
        ({"min_p": 0.1}, UnsupportedFieldError, "min_p"),
        ({"dry_multiplier": 0.8}, UnsupportedFieldError, "dry_multiplier"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
async def test_what_would_crash_or_hang_it_is_refused(
    engine: AsyncKernelMLCEngine,
    request_fields: dict[str, Any],
    error: type[BadRequestError],
    named: str,
) -> None:
    with pytest.raises(error) as raised:
        await engine.completions.create(**{"prompt": "Hello", "max_tokens": 3, **request_fields})
    assert raised.value.param == named
    answer = await engine.completions.create(prompt="Hello", max_tokens=3)
    assert answer.choices[0].finish_reason


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "Anything."},
        "count": {"type": "integer"},
    },
    "required": ["name", "count"],
    "additionalProperties": False,
}


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}


async def test_a_json_schema_is_held_to(engine: AsyncKernelMLCEngine) -> None:
    answer = await engine.chat.completions.create(
        messages=HELLO, temperature=0, max_tokens=400, response_format=schema_format(SCHEMA)
    )
    if answer.choices[0].finish_reason == "length":
        pytest.skip("this model does not come to an end under a grammar")
    value = json.loads(answer.choices[0].message.content or "")
    assert isinstance(value["name"], str)
    assert isinstance(value["count"], int)


@pytest.mark.parametrize(
    "wanted",
    [
        schema_format({"type": "thing"}),
        schema_format({"type": "object", "properties": []}),
        schema_format({"type": "string", "pattern": "("}),
        schema_format({"$ref": "#/$defs/missing"}),
        {"type": "grammar", "grammar": "root ::= 'a'"},
    ],
    ids=["type", "properties", "pattern", "$ref", "grammar"],
)
async def test_a_schema_that_would_kill_its_thread_is_refused(
    engine: AsyncKernelMLCEngine, wanted: dict[str, Any]
) -> None:
    with pytest.raises(BadRequestError) as raised:
        await engine.chat.completions.create(messages=HELLO, max_tokens=3, response_format=wanted)
    assert (raised.value.param or "").startswith("response_format")
    assert (await stream(engine, max_tokens=3))[0]


async def test_a_chat_model_has_no_embeddings(engine: AsyncKernelMLCEngine) -> None:
    with pytest.raises(UnsupportedModelError, match="embedding"):
        await engine.embeddings.create(input="Hello")
