"""Replies that repeat themselves, and the maximum length of a reply."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.proxy.engines import KernelMLCEngine
from mlc_widget.widget import ChatWidget
from mlc_widget.widget.chat_request import DEFAULT_MAX_TOKENS
from mlc_widget.widget.options import options_json
from mlc_widget.widget.repetition import LONGEST, RepetitionDetector, repeated_unit
from mlc_widget.widget.state import Message
from mlc_widget.widget.transcript import ending

MakeEngine = Callable[..., KernelMLCEngine]
DEADLINE = 60.0
PROSE = " ".join(f"Sentence {i} says that {i} squared is {i * i}." for i in range(200))


def shuffled(length: int) -> str:
    return "".join(random.Random(length).choices("abcdefgh é", k=length))


@pytest.mark.parametrize(
    "unit",
    ["ha", "The cat sat. ", "a\n\nb\n\n", '"population": 5, ', "é", shuffled(90), shuffled(700)],
    ids=lambda unit: unit[:10].strip(),
)
def test_what_repeats_itself_is_noticed(unit: str) -> None:
    text = PROSE + unit * max(4, 420 // len(unit) + 1)
    found = repeated_unit(text[-4 * LONGEST :])
    assert found is not None
    assert len(found) <= len(unit)
    detector = RepetitionDetector()
    for i in range(0, len(text), 7):
        detector.append(text[i : i + 7])
    detector.look()
    assert detector.repeats
    detector.append(PROSE)  # it found its way out
    assert not detector.repeats


@pytest.mark.parametrize(
    "text",
    [
        "",
        PROSE,
        "ha" * 50,  # not yet
        "\n".join(f"{i}. item" for i in range(500)),
        "=" * 4000,
        "| --- " * 400,
        " \n" * 400,
        shuffled(700) * 3,
        shuffled(LONGEST + 1) * 4,
        "\n".join(f"row{i}, {i % 7}, {i % 3}" for i in range(300)),
    ],
    ids=lambda text: text[:10].strip(),
)
def test_what_does_not_is_left_alone(text: str) -> None:
    assert repeated_unit(text[-4 * LONGEST :]) is None
    detector = RepetitionDetector()
    for i in range(0, len(text), 50):
        detector.append(text[i : i + 50])
        assert not detector.repeats


def test_a_reply_that_repeats_itself_says_so(make_engine: MakeEngine) -> None:
    chat = ChatWidget(make_engine(text="It goes on and on.", repeat=10**6))
    reply = chat.send("Hi")
    reply.result(DEADLINE)
    assert reply.finish_reason == "length"
    assert reply.stats is not None
    assert reply.stats["completion_tokens"] == DEFAULT_MAX_TOKENS
    assert chat._session.state.to_json()["messages"][-1]["repeats"] is True
    assert "repeats itself" in chat.export("md")
    chat.close()
    plain = ChatWidget(make_engine(text=PROSE))
    plain.send("Hi").result(DEADLINE)
    assert "repeats itself" not in plain.export("md")
    plain.close()
    assert ending(Message("m", "assistant", "", finish="stop")) == []


def test_how_long_a_reply_may_become_is_the_user_s_or_the_model_s(
    make_engine: MakeEngine, model_folder: Path
) -> None:
    engine = make_engine(text="more", repeat=10**6)
    assert _tokens(engine, 6000) == 6000
    assert _tokens(engine, 7) == 7
    engine.reload(str(model_folder), {"max_tokens": 50})
    try:
        assert _tokens(engine, None) == 50
        assert _tokens(engine, 60) == 60
        defaults = engine._core.submit(engine._core.list_models()).result(DEADLINE)[0]
        assert defaults["default_sampling_params"]["max_tokens"] == 50
    finally:
        engine.reload(str(model_folder))


def _tokens(engine: KernelMLCEngine, max_tokens: int | None) -> int:
    chat = ChatWidget(engine, max_tokens=max_tokens)
    reply = chat.send("Hi")
    reply.result(DEADLINE)
    chat.close()
    assert reply.stats is not None
    tokens: int = reply.stats["completion_tokens"]
    return tokens


def test_the_repetition_penalty_is_a_setting(make_engine: MakeEngine) -> None:
    chat = ChatWidget(make_engine(), repetition_penalty=1.2, top_k=40, min_p=0.05)
    request = chat._session.options.request(())
    assert request["repetition_penalty"] == 1.2
    assert (request["top_k"], request["min_p"]) == (40, 0.05)
    assert json.loads(json.dumps(options_json(chat._session.options)))["repetition_penalty"] == 1.2
    for wrong in (0, 11, "much", True):
        with pytest.raises(BadRequestError, match="repetition_penalty"):
            chat.repetition_penalty = wrong
    chat.close()
