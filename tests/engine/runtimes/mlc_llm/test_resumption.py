"""After mlc_llm's death, its answer continues, and says that it is not exactly the same text."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from mlc_widget import AsyncKernelMLCEngine
from mlc_widget.api.errors import EngineDeadError
from mlc_widget.engine.text.tokenizer import Tokenizer

from ....kinds import but_for_soak
from ....waiting import until
from .conftest import EngineFactory, Package

SAME = {"seed": 3, "extra_body": {"ignore_eos": True}}


def once(folder: Path, **trouble: Any) -> dict[str, Any]:
    return {**trouble, "once": str(folder / "once")}


def hangs_once(folder: Path, steps: int) -> dict[str, Any]:
    """Arguments with which mlc_llm stands still after so many tokens, for the test to kill it."""
    return {
        "options": {"stall_timeout": 300.0},
        "trouble": once(folder, step_hangs_after=steps),
    }


async def read(
    engine: AsyncKernelMLCEngine, *, kill: Path | None = None, **request: Any
) -> tuple[list[str], list[Any], Any]:
    """The text before and after each resumption, the markers, and the last chunk.

    The worker is killed after the first chunk, once it stands still and has written the file
    `kill`: killed before, it would leave the standing still to the next worker.
    """
    texts, markers, last = [""], [], None
    wanted = {**SAME, "stream": True, "stream_options": {"include_usage": True}, **request}
    async for last in await engine.completions.create(**wanted):
        if kill is not None:
            await until(kill.exists)
            kill = None
            assert engine.worker_pid is not None
            os.kill(engine.worker_pid, signal.SIGKILL)
        if hasattr(last, "resumed"):
            markers.append(last.resumed)
            texts.append("")
        if last.choices:
            texts[-1] += last.choices[0].text
    return texts, markers, last


async def test_a_stream_goes_on_and_says_that_it_is_another_text(
    standin: Package, make_engine: EngineFactory, tmp_path: Path
) -> None:
    engine = await make_engine(standin, **hangs_once(tmp_path, 20))
    tokenizer = Tokenizer.from_folder(standin.model)
    prompt = tokenizer.encode("Hello")
    texts, markers, last = await read(engine, kill=tmp_path / "once", prompt=prompt, max_tokens=60)
    before, after = texts
    delivered = tokenizer.encode(before)
    assert markers == [{"exact": False, "tokens": len(delivered)}]
    assert 0 < len(delivered) <= 20
    used = last.usage
    assert (used.prompt_tokens, used.completion_tokens) == (len(prompt), 60)
    # It goes on from the text that the reader has, with what is left of its tokens.
    rest = await engine.completions.create(
        prompt=[*prompt, *delivered], max_tokens=60 - len(delivered), **SAME
    )
    assert after == rest.choices[0].text
    assert rest.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    "death", but_for_soak(("crashes_after", "step_dies_after"), "step_dies_after")
)
async def test_a_whole_answer_is_asked_for_again(
    death: str, standin: Package, make_engine: EngineFactory, tmp_path: Path
) -> None:
    engine = await make_engine(standin, trouble=once(tmp_path, **{death: 20}))
    request = {"prompt": "Hello", "max_tokens": 40, "n": 2, **SAME}
    worker = engine.worker_pid
    answer = await engine.completions.create(**request)
    assert engine.worker_pid != worker
    assert answer.choices == (await engine.completions.create(**request)).choices


@pytest.mark.parametrize(
    ("field", "request_fields"),
    [
        ("logprobs", {"logprobs": 1}),
        pytest.param(
            "response_format",
            {"response_format": {"type": "json_object"}},
            marks=pytest.mark.soak,
        ),
    ],
)
async def test_what_cannot_be_continued_says_so(
    field: str,
    request_fields: dict[str, Any],
    standin: Package,
    make_engine: EngineFactory,
    tmp_path: Path,
) -> None:
    engine = await make_engine(standin, **hangs_once(tmp_path, 4))
    with pytest.raises(EngineDeadError, match=f"cannot continue an answer with {field}"):
        await read(engine, kill=tmp_path / "once", prompt="Hello", max_tokens=400, **request_fields)
    answer = await engine.completions.create(prompt="Hello", max_tokens=3, **SAME)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


async def test_choices_that_had_ended_stay_as_they_were(
    standin: Package, make_engine: EngineFactory
) -> None:
    engine = await make_engine(standin)
    tokenizer = Tokenizer.from_folder(standin.model)
    one, ten = "Once.", " Numbers: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10."
    assert len(tokenizer.encode(one)) < 10 < len(tokenizer.encode(ten))
    choices = [
        {"journal": one, "finish_reason": "stop"},
        {"journal": one, "finish_reason": None},
        {"journal": ten, "finish_reason": None},
        None,
    ]
    request = {
        "prompt": "Hello",
        "n": 4,
        "max_tokens": 10,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }

    async def collect() -> list[dict[str, Any]]:
        worker = engine._core._supervisor.living()
        assert worker is not None
        content = {"request": request, "resume": {"created": 5, "choices": choices}}
        stream = await worker.connection.open_stream("completionStreamInit", content)
        return [chunk async for batch in stream for chunk in batch]

    *chunks, last = await engine._call(collect)
    assert {c["created"] for c in chunks} == {5}
    ends = {c["choices"][0]["index"]: c["choices"][0] for c in chunks}
    assert sorted(ends) == [1, 2, 3]
    assert {end["finish_reason"] for end in ends.values()} == {"length"}
    assert sum(c["choices"][0]["index"] == 2 for c in chunks) == 1  # its end alone
    counted = len(tokenizer.encode(one)) + 10 + len(tokenizer.encode(ten)) + 10
    assert last["usage"]["completion_tokens"] == counted
    assert last["usage"]["prompt_tokens"] == len(tokenizer.encode("Hello"))
