"""A stream is continued after any of its chunks as if nothing had interrupted it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mlc_widget import AsyncMLCEngine
from mlc_widget.api.errors import ContextLengthExceededError, EngineDeadError, ProtocolError
from mlc_widget.engine.resumption import Delivered, Resumption
from mlc_widget.proxy.journal import Journal

from ..waiting import until_running
from .conftest import CALL_MARKS, THOUGHT_MARKS, engine_on, user, write_model

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Oslo"]}, "days": {"enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}
OPEN, CLOSE = 405, 406  # the ids of THOUGHT_MARKS
WORD = {"type": "regex", "regex": "[a-z ]{5,12}"}

SET_OF_WORDS = {
    "type": "array",
    "items": {"type": "string", "maxLength": 2},
    "uniqueItems": True,
    "minItems": 3,
    "maxItems": 3,
}
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"max_tokens": 24},
    "choices": {"n": 3, "max_tokens": 10},
    "penalties": {
        "max_tokens": 24,
        "temperature": 0.3,
        "frequency_penalty": 1.5,
        "presence_penalty": 0.5,
        "repetition_penalty": 1.3,
        "logit_bias": {70: 5, 71: 5},
    },
    "filters": {"max_tokens": 24, "top_k": 30, "typical_p": 0.95, "top_p": 0.9, "min_p": 0.02},
    "repetitions": {
        "max_tokens": 30,
        "temperature": 0.5,
        "logit_bias": {70: 30, "a": 30},
        "dry_multiplier": 20,
        "dry_sequence_breakers": ["b", "ac"],
    },
    "logprobs": {"max_tokens": 16, "logprobs": True, "top_logprobs": 2},
    "stop": {
        "max_tokens": 60,
        "temperature": 0,
        "logit_bias": {70: 100, 71: 99.9, 72: 99.8},
        "frequency_penalty": 0.4,
        "stop": ["eeffee", "zzz"],
    },
    "grammar": {"max_tokens": 40, "response_format": {"type": "json_object", "schema": CITY}},
    "distinct items": {
        "max_tokens": 80,
        "enable_thinking": False,
        "response_format": {"type": "json_object", "schema": SET_OF_WORDS},
    },
    "tools": {
        "max_tokens": 150,
        "tools": [TOOL],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "enable_thinking": False,
    },
    "thought": {"max_tokens": 80, "response_format": WORD, "logit_bias": {OPEN: 9, CLOSE: 6}},
    "echo": {"max_tokens": 12, "echo": True, "prompt": "the weather", "n": 2},
    "completion logprobs": {"max_tokens": 12, "logprobs": 1, "prompt": "the weather"},
    "end of text": {"max_tokens": 40, "ignore_eos": False, "logit_bias": {0: 3, 2: 3}},
}
ENDS = {
    "stop": "stop",
    "grammar": "stop",
    "distinct items": "stop",
    "tools": "tool_calls",
    "thought": "stop",
}
ENDS |= {"end of text": "stop", "distinct items": "stop"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: Any, cache_dir: Path) -> AsyncIterator[AsyncMLCEngine]:
    marks = [*CALL_MARKS, *THOUGHT_MARKS]
    folder = write_model(tmp_path_factory.mktemp("models") / "thinker", marks=marks)
    async with engine_on(folder, cache_dir) as made:
        yield made


async def stream(
    engine: AsyncMLCEngine,
    request: dict[str, Any],
    resumption: Resumption | None = None,
    *,
    journal: bool = True,
) -> list[dict[str, Any]]:
    """All chunks, as a worker would push them."""

    async def collect() -> list[dict[str, Any]]:
        kind = "completion" if "prompt" in request else "chat"
        source = await engine._core.open_stream(
            kind, request, journal=journal, resumption=resumption
        )
        return [chunk async for batch in source for chunk in batch]

    chunks: list[dict[str, Any]] = await engine._call(collect)
    return chunks


def whole(request: dict[str, Any]) -> dict[str, Any]:
    given = {} if "prompt" in request else {"messages": user("Hello!")}
    same = {"seed": 11, "ignore_eos": True, "stream_options": {"include_usage": True}}
    return {**given, **same, "request_id": "one", **request}


def seen(chunks: Sequence[dict[str, Any]]) -> dict[Any, list[Any]]:
    """What each choice's reader sees, and the counts."""
    seen: dict[Any, list[Any]] = defaultdict(list)
    for chunk in chunks:
        seen["created"].append(chunk["created"])
        for choice in chunk["choices"]:
            seen[choice["index"]].append(choice)
        if "usage" in chunk:
            seen["usage"].append(
                [chunk["usage"][f"{part}_tokens"] for part in ("prompt", "completion")]
            )
    seen["created"] = sorted(set(seen["created"]))
    return dict(seen)


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.asyncio(loop_scope="module")
async def test_it_goes_on_after_any_chunk(engine: AsyncMLCEngine, name: str) -> None:
    request = whole(REQUESTS[name])
    chunks = await stream(engine, request)
    assert len(chunks) > 2
    assert chunks[-2]["choices"][0]["finish_reason"] == ENDS.get(name, "length")
    journal = Journal(request)
    assert journal.content() is None
    for cut, chunk in enumerate(chunks[:-1], 1):
        journal.take(chunk)
        assert not journal.complete
        rest = await stream(engine, request, Resumption.read(journal.content()))
        marker = rest[0].pop("resumed")
        assert marker["exact"]
        assert all("resumed" not in c for c in rest)
        for other in rest:
            other.pop("journal", None)
        assert seen([*chunks[:cut], *rest]) == seen(without_journal(chunks)), cut
    journal.take(chunks[-1])
    assert journal.complete
    assert (await engine._core.get_message()) == said(chunks)


LONG: dict[str, dict[str, Any]] = {
    "stop strings": {"max_tokens": 64, "stop": ["zzzz", "qqqq"]},
    "grammar": {"max_tokens": 64, "response_format": {"type": "regex", "regex": "[0-9]{64,90}"}},
    "tools": {**REQUESTS["tools"], "parallel_tool_calls": True},
}
INDEXES = [pytest.param(at, marks=() if at in (1, 40) else pytest.mark.soak) for at in range(1, 64)]


@pytest.mark.parametrize("at", INDEXES)
@pytest.mark.parametrize("name", LONG)
@pytest.mark.asyncio(loop_scope="module")
async def test_two_choices_with_log_probabilities_go_on_after_any_token_beside_a_neighbour(
    engine: AsyncMLCEngine, name: str, at: int
) -> None:
    request = whole({**LONG[name], "temperature": 1, "n": 2, "logprobs": True, "top_logprobs": 2})
    chunks = await stream(engine, request)
    journal, read = Journal(request), 0
    while tokens_of(journal) < at:
        journal.take(chunks[read])
        read += 1
    endless = {"max_tokens": 2000, "seed": 3, "request_id": "neighbour"}
    neighbour = asyncio.create_task(stream(engine, whole(endless)))
    await until_running(engine)
    rest = await stream(engine, request, Resumption.read(journal.content()))
    assert not neighbour.done()
    await engine.abort("neighbour")
    await neighbour
    assert rest[0].pop("resumed")["exact"]
    assert seen([*chunks[:read], *without_journal(rest)]) == seen(without_journal(chunks))


def tokens_of(journal: Journal) -> int:
    """How many tokens of its first choice a reader has."""
    content = journal.content()
    first = content and content["choices"][0]
    return len(first["journal"]) if first else 0


def without_journal(chunks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in c.items() if k != "journal"} for c in chunks]


def said(chunks: Sequence[dict[str, Any]]) -> str:
    mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == 0]
    return "".join(c["text"] if "text" in c else c["delta"].get("content") or "" for c in mine)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_marker_counts_what_came_before(engine: AsyncMLCEngine) -> None:
    request = whole({"max_tokens": 9})
    chunks = await stream(engine, request)
    journal = Journal(request)
    for chunk in chunks[:4]:
        journal.take(chunk)
    content = journal.content()
    assert content is not None
    rest = await stream(engine, request, Resumption.read(content))
    tokens = len(content["choices"][0]["journal"])
    assert rest[0]["resumed"] == {"exact": True, "tokens": tokens}
    assert tokens >= 4
    assert rest[-1]["usage"]["completion_tokens"] == 9


@pytest.mark.asyncio(loop_scope="module")
async def test_an_abort_counts_what_came_before(engine: AsyncMLCEngine) -> None:
    request = whole({"max_tokens": 500})
    resumption = Resumption(1, (Delivered(tokens=(70, 71, 72)),))

    async def abort_at_once() -> list[dict[str, Any]]:
        source = await engine._core.open_stream("chat", request, resumption=resumption)
        source.abort()
        return [chunk async for batch in source for chunk in batch]

    last, used = await engine._call(abort_at_once)
    assert last["choices"][0]["finish_reason"] == "abort"
    assert used["usage"]["completion_tokens"] == 3


@pytest.mark.asyncio(loop_scope="module")
async def test_without_being_asked_chunks_have_no_journal(engine: AsyncMLCEngine) -> None:
    chunks = await stream(engine, whole({"max_tokens": 3}), journal=False)
    assert all("journal" not in c and "resumed" not in c for c in chunks)


@pytest.mark.parametrize(
    "content",
    [
        {"created": 1},
        {"created": 1, "choices": []},
        {"created": "now", "choices": [None]},
        {"created": 1, "choices": [{"journal": [1.5], "finish_reason": None}]},
        {"created": 1, "choices": [{"journal": [1], "finish_reason": "tired"}]},
        [1],
    ],
)
def test_a_malformed_journal_is_refused(content: Any) -> None:
    with pytest.raises(ProtocolError, match="resume"):
        Resumption.read(content)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_journal_that_does_not_fit_is_refused(engine: AsyncMLCEngine) -> None:
    request = whole({"max_tokens": 500})
    with pytest.raises(ProtocolError, match="2 choices and the request 1"):
        await stream(engine, request, Resumption(1, (None, None)))
    with pytest.raises(EngineDeadError, match="another runtime"):
        await stream(engine, request, Resumption(1, (Delivered(text="The weather"),)))
    with pytest.raises(ContextLengthExceededError):
        await stream(engine, request, Resumption(1, (Delivered(tokens=(70,) * 3000),)))
