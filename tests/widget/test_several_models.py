"""A chat with one of several models that an engine has."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mlc_widget.api.errors import BadRequestError, ModelNotLoadedError
from mlc_widget.proxy.engines import KernelMLCEngine
from mlc_widget.widget import ChatWidget

from ..waiting import until_blocking
from .test_comparison import intend, sides

DEADLINE = 30.0


@pytest.fixture(scope="module")
def models(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("models")
    return [str(shutil.copytree(model_folder, root / name)) for name in ("one", "two")]


@pytest.fixture(scope="module")
def engine(make_engine: Callable[..., KernelMLCEngine], models: list[str]) -> KernelMLCEngine:
    engine = make_engine(echo=True)
    engine.reload(models)
    return engine


def test_a_chat_names_its_model(engine: KernelMLCEngine, models: list[str]) -> None:
    with pytest.raises(BadRequestError, match="model = 7: must be the name of one of"):
        ChatWidget(engine, model=7)  # type: ignore[arg-type]
    with pytest.raises(BadRequestError, match=r"several models are loaded .* model='.*/one'\)\."):
        ChatWidget(engine)
    two, none = (ChatWidget(engine, model=name) for name in (models[1], "none"))
    assert two.send("Hello").result(DEADLINE)["role"] == "assistant"
    assert two._view_of.to_json()["model"] == models[1]
    until_blocking(lambda: two._view_of.to_json()["window"])
    with pytest.raises(ModelNotLoadedError, match="not loaded; loaded:"):
        none.send("Hello").result(DEADLINE)
    for chat in (two, none):
        chat.close()


def test_both_models_of_an_engine_are_compared_in_it(
    engine: KernelMLCEngine, models: list[str]
) -> None:
    chat = ChatWidget(engine, model=models[0])
    offered = chat.get_state()["_options"]["models"][:2]
    assert [(one["name"], one["place"]) for one in offered] == [(name, "loaded") for name in models]
    assert intend(chat, "compare", model=models[1], text="Hello") == ""
    first, second = sides(chat)
    assert first.engine_link is second.engine_link is chat.engine_link
    assert [side._view_of.model for side in (first, second)] == models
    assert intend(chat, "leave") == ""
    chat.close()


def test_a_model_that_the_page_loads_is_the_chat_s(
    engine: KernelMLCEngine, models: list[str]
) -> None:
    chat = ChatWidget(engine, model=models[1])
    assert intend(chat, "load", model=models[0]) == ""
    assert chat.send("Hello").result(DEADLINE)["role"] == "assistant"
    assert chat._view_of.to_json()["model"] == models[0]
    chat.close()
