"""`engine.map` on a core of the tests' own: order, seeds, cache, errors, bounds, interruption."""

from __future__ import annotations

import asyncio
import collections
import json
import os
import random
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest

from mlc_widget import (
    AsyncMLCEngineInterface,
    BadRequestError,
    ContextLengthExceededError,
    EngineTerminatedError,
    InternalEngineError,
    MapReport,
    MLCEngineInterface,
    ModelNotLoadedError,
    UnsupportedFieldError,
)

from ...waiting import until
from .conftest import FakeCore

WORDS = [{"text": f"word {i}"} for i in range(40)]


async def test_a_frame_comes_back_with_a_column(
    engine: AsyncMLCEngineInterface, core: FakeCore
) -> None:
    frame = pd.DataFrame({"text": ["a", "b", "a"], "n": [1, 2, 3]}, index=[9, 8, 7])
    report = MapReport()
    made = await engine.map("Say {text}", frame, system="{text}", report=report, temperature=0.5)
    assert list(made.index) == [9, 8, 7]
    assert list(made.columns) == ["text", "n", "reply"]
    assert made["reply"].iloc[0].startswith("Say a ")
    assert made["reply"].iloc[0] == made["reply"].iloc[2]
    assert list(frame.columns) == ["text", "n"]
    assert sorted(core.texts) == ["Say a", "Say b"], "equal rows are computed once"
    assert core.requests[0]["messages"][0] == {"role": "system", "content": "{text}"}
    assert core.requests[0]["temperature"] == 0.5
    assert core.requests[0]["model"] == "fake"
    assert (report.total, report.rows, report.cached, report.errors) == (3, 3, 1, 0)
    assert (report.prompt_tokens, report.completion_tokens) == (6, 4)
    assert str(report).startswith("3 of 3 rows, ")
    assert report.seconds > 0


async def test_the_same_rows_give_the_same_replies_in_any_order_and_batch(
    engine: AsyncMLCEngineInterface, core: FakeCore, blocking: MLCEngineInterface
) -> None:
    first = await engine.map("{text}", WORDS, cache=False)
    shuffled = random.Random(1).sample(WORDS, len(WORDS))
    core.model["max_num_sequence"] = 1
    again = await asyncio.to_thread(blocking.map, "{text}", iter(shuffled), cache=False)
    assert {r["text"]: r["reply"] for r in again} == {r["text"]: r["reply"] for r in first}
    assert [r["text"] for r in again] == [r["text"] for r in shuffled]
    other = await engine.map("{text}", WORDS, seed=1, cache=False)
    assert all(a["reply"] != b["reply"] for a, b in zip(first, other, strict=True))
    assert len({r["seed"] for r in core.requests}) == 2 * len(WORDS)


async def test_a_second_run_computes_only_what_changed(
    engine: AsyncMLCEngineInterface, core: FakeCore, tmp_path: Path
) -> None:
    file, report = tmp_path / "cache", MapReport()
    first = await engine.map("{text}", WORDS, cache=file)
    core.requests.clear()
    changed = [{"text": "new"}, *WORDS[::-1]]
    again = await engine.map("{text}", changed, cache=str(file), report=report)
    assert core.texts == ["new"]
    assert again[1:] == first[::-1]
    assert (report.rows, report.cached) == (41, 40)
    for change in (
        {"temperature": 0.5},
        {"seed": 3},
        {"system": "Be kind."},
        {"schema": Literal["a"]},
        {"cache": False},
    ):
        core.requests.clear()
        await engine.map("{text}", WORDS[:2], **{"cache": file, **change})
        assert len(core.requests) == 2, change
    core.requests.clear()
    core.model["fingerprint"] = "f2"
    await engine.map("{text}", WORDS[:2], cache=file)
    assert len(core.requests) == 2


async def test_cancelling_ends_all_requests_and_keeps_what_is_done(
    engine: AsyncMLCEngineInterface, core: FakeCore, own_cache: Path
) -> None:
    core.held = lambda text: int(text.split()[1]) >= 20
    task = asyncio.create_task(engine.map("{text}", WORDS))
    await until(lambda: core.running == 20 and len(core.requests) == 40)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: core.running == 0)
    assert core.cancelled == 20
    core.requests.clear()
    core.held = lambda text: False
    await engine.map("{text}", WORDS)
    assert sorted(core.texts) == sorted(f"word {i}" for i in range(20, 40))
    assert own_cache.exists()


def test_an_interrupt_of_a_blocking_map_ends_all_requests(
    blocking: MLCEngineInterface, core: FakeCore
) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from WORDS[:6]
        raise KeyboardInterrupt

    core.held = lambda text: True
    with pytest.raises(KeyboardInterrupt):
        blocking.map("{text}", rows())
    home = blocking._home
    home.wait_blocking(lambda: asyncio.wait_for(until(lambda: core.running == 0), 60))


async def test_leaving_a_stream_ends_it(engine: AsyncMLCEngineInterface, core: FakeCore) -> None:
    core.held = lambda text: text != "word 0"
    async for row in engine.map_stream("{text}", WORDS):
        assert (row.index, row.row, row.error) == (0, WORDS[0], None)
        assert row.values["reply"].startswith("word 0 ")
        await until(lambda: core.running > 0)  # cancelled before they begin, they are not counted
        break
    await until(lambda: core.running == 0)
    assert core.cancelled


async def test_an_endless_iterator_is_read_only_as_far_as_needed(
    engine: AsyncMLCEngineInterface, blocking: MLCEngineInterface, core: FakeCore
) -> None:
    read = 0

    async def endless() -> AsyncIterator[dict[str, Any]]:
        nonlocal read
        while True:
            read += 1
            yield {"text": str(read)}

    seen = 0
    stream = engine.map_stream("{text}", endless())
    async for _ in stream:
        seen += 1
        assert read - seen <= 2 * 8 + 4 + 1
        if seen == 100:
            break
    assert core.most <= 20
    assert len(await engine.map("{text}", endless(), limit=3)) == 3

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal read
        while True:
            read += 1
            yield {"text": str(read)}

    read = seen = 0
    for _ in await asyncio.to_thread(
        lambda: list(blocking.map_stream("{text}", counted(), limit=50))
    ):
        seen += 1
    assert (read, seen) == (50, 50)


async def test_rows_that_fail_are_told_beside_the_others(
    engine: AsyncMLCEngineInterface, core: FakeCore
) -> None:
    core.errors = {
        "long": ContextLengthExceededError("too long", param="messages"),
        "bug": InternalEngineError("a bug"),
    }
    frame = pd.DataFrame({"text": ["ok", "long", "x" * 10_000_000, "bug", None], "error": "mine"})
    report = MapReport()
    made = await engine.map("{text}", frame, report=report)
    assert list(made["error"]) == ["mine"] * 5
    assert made["map_error"].iloc[1] == "ContextLengthExceededError: too long"
    assert "too large" in made["map_error"].iloc[2]
    assert made["map_error"].iloc[3] == "InternalEngineError: a bug"
    assert list(made["map_error"].isna()) == [True, False, False, False, True]
    assert list(made["reply"].isna()) == [False, True, True, True, True]
    assert (report.rows, report.errors, report.skipped) == (5, 3, 1)
    assert report.first_error is not None
    assert "x" * 10_000_000 not in core.texts
    core.requests.clear()
    core.errors = {}
    again = await engine.map("{text}", frame.iloc[[0, 1, 3, 4]])
    assert sorted(core.texts) == ["bug", "long"], "errors are not cached"
    assert "map_error" not in again.columns


async def test_raising_checks_all_prompts_first(
    engine: AsyncMLCEngineInterface, blocking: MLCEngineInterface, core: FakeCore
) -> None:
    rows = [*WORDS, {"text": b"bytes"}]
    with pytest.raises(BadRequestError, match="bytes") as caught:
        await engine.map("{text}", rows, on_error="raise")
    assert caught.value.__notes__ == ["This is about row 40 of the data."]
    with pytest.raises(BadRequestError, match="bytes"):
        await asyncio.to_thread(blocking.map, "{text}", rows, on_error="raise")
    assert core.requests == []
    core.errors = {"word 3": InternalEngineError("a bug")}
    with pytest.raises(InternalEngineError) as bug:
        await engine.map("{text}", WORDS, on_error="raise", cache=False)
    assert bug.value.__notes__ == ["This is about row 3 of the data."]


@pytest.mark.parametrize(
    "error",
    [
        EngineTerminatedError("ended"),
        ModelNotLoadedError("gone"),
        UnsupportedFieldError("no schemas here", param="response_format"),
        BadRequestError("bad schema", param="response_format.json_schema.schema"),
    ],
)
async def test_what_ends_all_rows_is_raised(
    engine: AsyncMLCEngineInterface, core: FakeCore, error: Exception
) -> None:
    core.errors = {"word 3": error}
    with pytest.raises(type(error)):
        await engine.map("{text}", WORDS)
    await until(lambda: core.running == 0)
    assert len(core.requests) < len(WORDS)


async def test_schemas_give_typed_columns(engine: AsyncMLCEngineInterface, core: FakeCore) -> None:
    core.answer = lambda text: json.dumps({"label": "good", "score": len(text)})
    schema = {
        "type": "object",
        "properties": {"label": {"enum": ["good", "bad"]}, "score": {"type": "integer"}},
    }
    frame = pd.DataFrame({"text": ["a", "bb", "long"]})
    core.errors = {"long": InternalEngineError("a bug")}
    made = await engine.map("{text}", frame, schema=schema)
    assert list(made["score"])[:2] == [1, 2]
    assert str(made["score"].dtype) == "Int64"
    sent = core.requests[0]["response_format"]["json_schema"]["schema"]
    assert sent["additionalProperties"] is False
    core.finish = "length"
    report = MapReport()
    cut = await engine.map("{text}", [{"text": "new"}], schema=schema, report=report)
    assert cut[0]["score"] is None
    assert "cut off" in cut[0]["error"]
    assert (report.truncated, report.errors) == (1, 1)
    core.finish = "abort"
    (row,) = await engine.map("{text}", [{"text": "newer"}])
    assert "interrupted" in row["error"]


async def test_prompts_may_be_functions_or_messages(
    engine: AsyncMLCEngineInterface, core: FakeCore
) -> None:
    here = threading.get_ident()

    def prompt(row: dict[str, Any]) -> Any:
        assert threading.get_ident() == here
        if row["n"] is None:
            return None
        return row["text"] if row["n"] else [{"role": "user", "content": "{text}"}]

    rows = [{"text": "{a}", "n": 1}, {"text": "b", "n": 0}, {"text": "c", "n": float("nan")}, {}]
    made = await engine.map(prompt, rows)
    assert core.texts == ["{a}", "{text}"]
    assert made[2]["reply"] is None
    assert "KeyError" in made[3]["error"]
    core.requests.clear()
    messages = [
        {"role": "user", "content": "Is {text} a word?"},
        {"role": "assistant", "content": "{{yes}}"},
        {"role": "user", "content": [{"type": "text", "text": "Sure? {n}"}]},
    ]
    await engine.map(messages, [{"text": "<|im_end|>", "n": "{x}"}])
    assert [m["content"] for m in core.requests[0]["messages"]] == [
        "Is <|im_end|> a word?",
        "{yes}",
        "Sure? {x}",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompt": "{txt}"}, "Did you mean {text}"),
        ({"prompt": "no column"}, "names no column"),
        ({"prompt": 5}, "give a template"),
        ({"prompt": [{"role": "user"}]}, "prompt"),
        ({"system": 5}, "system"),
        ({"data": {"text": ["a"]}}, "give a pandas"),
        ({"into": "text"}, "has a column 'text' already"),
        ({"into": ""}, "into"),
        ({"schema": {"type": "object", "properties": {"text": {}}}}, "column 'text' already"),
        ({"schema": 5}, "schema = 5"),
        ({"seed": "x"}, "seed = 'x'"),
        ({"on_error": "drop"}, "on_error = 'drop'"),
        ({"limit": -1}, "limit = -1"),
        ({"report": {}}, "MapReport"),
        ({"cache": 5}, "cache = 5"),
        ({"temperature": 9}, "temperature = 9"),
        ({"stream": True}, "stream = True"),
        ({"logprobs": True}, "no such argument"),
        ({"show_progress": "no"}, "show_progress"),
    ],
)
async def test_wrong_arguments_are_refused_before_any_work(
    engine: AsyncMLCEngineInterface, core: FakeCore, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        await engine.map(**{"prompt": "{text}", "data": WORDS, **arguments})
    assert words in str(caught.value)
    assert core.requests == []


async def test_iterators_are_checked_at_their_first_row(
    engine: AsyncMLCEngineInterface, blocking: MLCEngineInterface, core: FakeCore
) -> None:
    for rows in (iter([{"txt": "a"}]), iter(["text"])):
        with pytest.raises(BadRequestError):
            await engine.map("{text}", rows)

    async def rows_later() -> AsyncIterator[dict[str, Any]]:
        yield {"text": "a"}

    with pytest.raises(BadRequestError, match="awaited engine"):
        await asyncio.to_thread(blocking.map, "{text}", rows_later())
    assert core.requests == []
    assert await engine.map("{text}", []) == []
    assert await engine.map("{text}", iter([])) == []


async def test_the_progress_is_one_line_of_a_terminal(
    engine: AsyncMLCEngineInterface, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    await engine.map("{text}", WORDS)
    assert capsys.readouterr() == ("", ""), "nobody sees it"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    await engine.map("{text}", WORDS)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "40 of 40 rows" in err
    assert "40 cached" in err
    await engine.map("{text}", WORDS, show_progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
async def test_memory_stays_flat_over_many_rows(
    engine: AsyncMLCEngineInterface, core: FakeCore, tmp_path: Path
) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    core.requests = collections.deque(maxlen=1)  # type: ignore[assignment]
    for cache in (False, tmp_path / "file"):
        done, early = 0, 0
        rows = ({"text": str(i)} for i in range(100_000))
        async for _ in engine.map_stream("{text}", rows, cache=cache):
            done += 1
            if done == 20_000:
                early = resident()
        assert done == 100_000
        assert resident() - early < 30 << 20
