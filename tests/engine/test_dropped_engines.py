"""A direct engine ends with the last variable that holds it, and what is left of it says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from mlc_widget import EngineTerminatedError, MLCEngine

HELLO: list[Any] = [{"role": "user", "content": "Hello!"}]


def stream_of(engine: MLCEngine) -> Callable[[], Any]:
    stream = engine.chat.completions.create(messages=HELLO, stream=True)
    return lambda: list(stream)


def client_of(engine: MLCEngine) -> Callable[[], Any]:
    completions = engine.openai_client().chat.completions
    return lambda: completions.create(model="m", messages=HELLO)


def part_of(engine: MLCEngine) -> Callable[[], Any]:
    completions = engine.completions
    return lambda: completions.create(prompt="Hello!")


def chat_of(engine: MLCEngine) -> Callable[[], Any]:
    chat = engine.chat
    return lambda: chat.completions.create(messages=HELLO, stream=True)


@pytest.mark.parametrize("use", [stream_of, client_of, part_of, chat_of])
def test_what_is_left_of_a_dropped_engine_says_what_to_do(
    tiny_model: Path, use: Callable[[MLCEngine], Callable[[], Any]]
) -> None:
    engine = MLCEngine(runtime="scripted", runtime_options={"text": "word ", "repeat": 10**6})
    engine.reload(str(tiny_model))
    left = use(engine)
    del engine
    with pytest.raises(
        (EngineTerminatedError, openai.InternalServerError),
        match="no variable referred to it any longer",
    ):
        left()


def test_an_engine_that_was_terminated_says_so(tiny_model: Path) -> None:
    engine = MLCEngine(runtime="scripted")
    engine.reload(str(tiny_model))
    left = part_of(engine)
    engine.terminate()
    del engine
    with pytest.raises(EngineTerminatedError, match="was terminated; make a new one"):
        left()
