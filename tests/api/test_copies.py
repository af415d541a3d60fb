"""Engines, widgets and replies are not values: pickle and copy refuse them, and say what to do."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import mlc_widget
from mlc_widget import (
    AsyncKernelMLCEngine,
    AsyncMLCEngine,
    ChatWidget,
    EngineLogRecord,
    EngineMetrics,
    EngineSnapshot,
    EngineStatistics,
    FailedLoad,
    Hang,
    InitProgressReport,
    KernelMLCEngine,
    KernelMLCEngineHandler,
    LoadProgress,
    MLCEngine,
    MLCEngineError,
    Reply,
)
from mlc_widget.widget.state import Message

from ..waiting import until_blocking

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
def test_reprs_say_class_state_and_model(
    engine: type[Any], tiny_model: Path, tmp_path: Path
) -> None:
    name = engine.__name__
    goes_on = tmp_path / "the load goes on"
    made = engine(runtime="scripted", runtime_options={"load_waits_for": str(goes_on)})
    assert repr(made) == f"<{name} no model: idle>"
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(made.reload, str(tiny_model))
        until_blocking(lambda: repr(made) == f"<{name} {tiny_model}: loading>")
        goes_on.touch()
        load.result()
    assert repr(made) == f"<{name} {tiny_model}: ready>"
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


HELLO: list[Any] = [{"role": "user", "content": "Hello!"}]


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[MLCEngine]:
    engine = MLCEngine(runtime="scripted", runtime_options={"text": "one two three"})
    engine.set_app_config({"model_list": [{"model_id": "m", "model": str(tiny_model)}]})
    engine.reload("m")
    yield engine
    engine.terminate()


@pytest.mark.parametrize("way", COPIES)
def test_streams_are_not_copied(engine: MLCEngine, way: str) -> None:
    with engine.chat.completions.create(messages=HELLO, stream=True) as stream:
        for part in (stream, iter(stream)):
            with pytest.raises(TypeError, match="cannot be pickled or copied"):
                COPIES[way](part)


@pytest.mark.parametrize("way", COPIES)
def test_handlers_are_not_copied(engine: MLCEngine, way: str) -> None:
    class Mine(KernelMLCEngineHandler):
        pass

    with pytest.raises(TypeError, match="Mine cannot be pickled or copied"):
        COPIES[way](Mine(engine._core, print))  # type: ignore[arg-type]


# Libraries copy the clients that they are given, with what holds them.
CLIENT_PARTS: dict[str, Callable[[Any], Any]] = {
    "client": lambda client: client,
    "chat": lambda client: client.chat,
    "chat.completions": lambda client: client.chat.completions,
    "with_raw_response": lambda client: client.chat.completions.with_raw_response,
    "responses": lambda client: client.responses,
    "with_options": lambda client: client.with_options(timeout=60),
    "in a list": lambda client: [client],
    "a method": lambda client: client.chat.completions.create,
}


def ask(part: Any) -> str:
    """The answer of a client, or of a part of one."""
    request: dict[str, Any] = {"model": "m", "messages": HELLO, "max_tokens": 9}
    if isinstance(part, list):
        (part,) = part
    if type(part).__name__ == "Responses":
        return str(part.create(model="m", input="Hello!").output_text)
    if not inspect.ismethod(part):
        for name in ("chat", "completions", "create"):
            part = getattr(part, name, part)
    answer = part(**request)
    parsed = answer.parse() if hasattr(answer, "parse") else answer
    return str(parsed.choices[0].message.content)


@pytest.mark.parametrize("part", CLIENT_PARTS)
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
def test_copies_of_openai_clients_use_the_same_engine(
    engine: MLCEngine, part: str, way: Callable[[Any], Any]
) -> None:
    client = engine.openai_client()
    copied = way(CLIENT_PARTS[part](client))
    del client
    assert "one two three" in ask(copied)


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("part", CLIENT_PARTS)
def test_openai_clients_are_not_pickled(engine: MLCEngine, part: str, sync: bool) -> None:
    made = CLIENT_PARTS[part](engine.openai_client(sync=sync))
    copy.deepcopy(made)
    with pytest.raises(TypeError, match=r"openai_client.*cannot be pickled.*where they are needed"):
        pickle.dumps(made)


def test_streams_of_openai_clients_are_not_copied(engine: MLCEngine) -> None:
    client = engine.openai_client()
    for stream in (
        client.chat.completions.create(model="m", messages=HELLO, stream=True),
        client.responses.create(model="m", input="Hello!", stream=True),
    ):
        with stream:
            for way in (copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="cannot be pickled or copied: it is a stream"):
                    way(stream)


VALUES: list[Any] = [
    InitProgressReport(0.5, 1.5, "half", phase="download", bytes_done=3),
    EngineSnapshot(state="idle", error=MLCEngineError("x", code="c")),
    EngineMetrics({"running_requests": 1}),
    EngineStatistics(1),
    EngineLogRecord(1.5, "worker", "INFO", "mlc_widget", "x", "mine"),
    Hang("worker", 1.0),
    FailedLoad("tiny", MLCEngineError("x", code="c")),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    "way", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))]
)
def test_values_are_copied(value: Any, way: Callable[[Any], Any]) -> None:
    assert repr(way(value)) == repr(value)


@pytest.mark.parametrize("name", [n for n in mlc_widget.__all__ if n.endswith("Error")])
def test_errors_are_copied(name: str) -> None:
    error = getattr(mlc_widget, name)("what happened", code="c", param="p", request_id="r")
    for copied in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(copied) is type(error)
        assert vars(copied) == vars(error)
        assert str(copied) == str(error)


def test_reprs_are_one_line_without_addresses(engine: MLCEngine) -> None:
    kernel = KernelMLCEngine()
    shown = [part(made) for part in PARTS.values() for made in (engine, AsyncMLCEngine())]
    shown += [kernel.link, ChatWidget(kernel), LoadProgress(kernel)]
    shown += [KernelMLCEngineHandler(engine._core, print)]  # type: ignore[arg-type]
    with engine.chat.completions.create(messages=HELLO, stream=True) as stream:
        shown += [stream, iter(stream)]
        for one in [*shown, *VALUES]:
            assert re.fullmatch(r"(?!.*(?:0x|mlc_widget\.))[^\n]{5,200}", repr(one)), repr(one)
