"""Engines, widgets and replies are not values: pickle and copy refuse them, and say what to do."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlc_widget import (
    AsyncKernelMLCEngine,
    AsyncMLCEngine,
    ChatWidget,
    KernelMLCEngine,
    LoadProgress,
    MLCEngine,
    Reply,
)
from mlc_widget.widget.state import Message

COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": pickle.dumps,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "within": lambda engine: copy.deepcopy({"engine": [engine]}),
}


@pytest.mark.parametrize(
    "engine", [AsyncKernelMLCEngine, AsyncMLCEngine, KernelMLCEngine, MLCEngine]
)
@pytest.mark.parametrize("way", COPIES)
def test_engines_are_not_copied(engine: type[Any], way: str) -> None:
    with pytest.raises(TypeError, match=f"{engine.__name__} cannot be pickled or copied"):
        COPIES[way](engine())


SHOWN: dict[str, Callable[[KernelMLCEngine], Any]] = {
    "chat.messages": ChatWidget,
    "the same engine": LoadProgress,
    "reply.result()": lambda _: Reply("r", lambda r: Message(r, "assistant", ""), print),
}


@pytest.mark.parametrize("remedy", SHOWN)
@pytest.mark.parametrize("way", COPIES)
def test_widgets_and_replies_are_not_copied(remedy: str, way: str) -> None:
    shown = SHOWN[remedy](KernelMLCEngine())
    name = type(shown).__name__
    with pytest.raises(TypeError, match=f"{name} cannot be pickled or copied") as raised:
        COPIES[way](shown)
    assert remedy in str(raised.value)


@pytest.mark.parametrize("engine", [KernelMLCEngine, MLCEngine])
def test_reprs_say_class_state_and_model(engine: type[Any], tiny_model: Path) -> None:
    name = engine.__name__
    made = engine(runtime="scripted")
    assert repr(made) == f"<{name} no model: idle>"
    seen = []
    made.set_init_progress_callback(lambda _: seen.append(repr(made)))
    made.reload(str(tiny_model))
    assert repr(made) == f"<{name} {tiny_model}: ready>"
    assert f"<{name} {tiny_model}: loading>" in seen
    made.unload()
    assert repr(made).endswith(": idle>")
    made.terminate()
    assert repr(made).endswith(": terminated>")


@pytest.mark.parametrize("engine", [AsyncKernelMLCEngine, AsyncMLCEngine])
def test_reprs_of_awaited_engines(engine: type[Any]) -> None:
    assert repr(engine()) == f"<{engine.__name__} no model: idle>"


PARTS: dict[str, Callable[[Any], Any]] = {
    "chat": lambda engine: engine.chat,
    "chat.completions": lambda engine: engine.chat.completions,
    "completions": lambda engine: engine.completions,
    "embeddings": lambda engine: engine.embeddings,
    "models": lambda engine: engine.models,
}


@pytest.mark.parametrize(
    "engine", [AsyncKernelMLCEngine, AsyncMLCEngine, KernelMLCEngine, MLCEngine]
)
@pytest.mark.parametrize("part", PARTS)
def test_parts_of_engines_are_not_copied(engine: type[Any], part: str) -> None:
    shown = PARTS[part](engine())
    for way in COPIES.values():
        with pytest.raises(TypeError, match=r"cannot be pickled or copied: .*make another engine"):
            way(shown)


@pytest.mark.parametrize("engine", [AsyncKernelMLCEngine, KernelMLCEngine])
def test_links_are_not_copied(engine: type[Any]) -> None:
    for way in COPIES.values():
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            way(engine().link)


def test_streams_are_not_copied(tiny_model: Path) -> None:
    engine = MLCEngine(runtime="scripted")
    engine.reload(str(tiny_model))
    with engine.chat.completions.create(
        messages=[{"role": "user", "content": "Hi"}], stream=True
    ) as stream:
        for way in COPIES.values():
            with pytest.raises(TypeError, match="Stream cannot be pickled or copied"):
                way(stream)
    engine.terminate()
