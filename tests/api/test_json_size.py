"""Nested objects that expand to gigabytes are refused before anything is written out."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlc_widget.api.app_config import AppConfig
from mlc_widget.api.errors import BadRequestError, MLCEngineError
from mlc_widget.api.json_size import TooDeepError, TooLargeError, check_json_size
from mlc_widget.api.request_values import shortened
from mlc_widget.api.requests import check_chat, check_completion, check_embedding
from mlc_widget.api.responses_api.request import check_response

MB = 1 << 20


def bomb(levels: int = 12) -> Any:
    """A list that has the same list ten times, and so on: its JSON would take terabytes."""
    value: Any = [0]
    for _ in range(levels):
        value = [value] * 10
    return value


def dict_bomb() -> Any:
    value: Any = "x"
    for _ in range(12):
        value = dict.fromkeys("abcdefghij", value)
    return value


USER = {"role": "user", "content": "Hi"}
LONG = "x" * MB
IDS = [7] * (256 * 1024)


def called(arguments: Any, times: int = 1) -> list[Any]:
    calls = [
        {"id": str(i), "type": "function", "function": {"name": "f", "arguments": arguments}}
        for i in range(times)
    ]
    return [USER, {"role": "assistant", "content": None, "tool_calls": calls}, USER]


def offered(parameters: Any) -> list[Any]:
    return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]


def chat(**fields: Any) -> Callable[[], object]:
    return lambda: check_chat({"messages": [USER], **fields})


CASES: dict[str, tuple[str, Callable[[], object]]] = {
    "metadata": ("metadata", chat(metadata={"a": bomb()})),
    "metadata of dicts": ("metadata", chat(metadata=dict_bomb())),
    "metadata of long texts": ("metadata", chat(metadata={str(i): LONG for i in range(4000)})),
    "extra_body": ("extra_body", chat(extra_body={"a": bomb()})),
    "messages": ("messages", chat(messages=bomb())),
    "a message": ("messages[0]", chat(messages=[bomb()])),
    "a role": ("messages[0].role", chat(messages=[{**USER, "role": bomb()}])),
    "content": ("messages[0].content", chat(messages=[{**USER, "content": bomb()}])),
    "one part many times": (
        "messages[0].content",
        chat(messages=[{**USER, "content": [{"type": "text", "text": LONG}] * 100_000}]),
    ),
    "one message many times": ("messages", chat(messages=[{**USER, "content": LONG}] * 4000)),
    "arguments": ("messages[1].tool_calls[0].function.arguments", chat(messages=called([bomb()]))),
    "arguments of dicts": (
        "messages[1].tool_calls[0].function.arguments",
        chat(messages=called(dict_bomb())),
    ),
    "arguments of many calls": (
        "messages[1].tool_calls",
        chat(messages=called({"a": "x" * 200_000}, 4000)),
    ),
    "a name": ("messages[0].name", chat(messages=[{**USER, "name": bomb()}])),
    "an unknown field": ("fields", chat(fields=bomb())),
    "tools": ("tools", chat(tools=bomb())),
    "a tool": ("tools[0]", chat(tools=[bomb()])),
    "a tool's schema": ("tools[0]", chat(tools=offered({"enum": bomb()}))),
    "a tool's choice": (
        "tool_choice",
        chat(tools=offered({}), tool_choice={"function": {"name": "f"}, "more": bomb()}),
    ),
    "a schema": (
        "response_format",
        chat(response_format={"type": "json_object", "schema": {"enum": bomb()}}),
    ),
    "stop": ("stop", chat(stop=bomb())),
    "logit_bias": ("logit_bias[1]", chat(logit_bias={1: bomb()})),
    "a prompt": ("prompt[0][0]", lambda: check_completion({"prompt": [bomb()]})),
    "one prompt many times": ("prompt", lambda: check_completion({"prompt": [IDS * 4] * 200})),
    "one input many times": ("input", lambda: check_embedding({"input": [IDS] * 2000})),
    "a response's items": ("input", lambda: check_response({"input": bomb()}, [])),
    "one item many times": (
        "input",
        lambda: check_response({"input": [{**USER, "content": "x" * 200_000}] * 4000}, []),
    ),
    "an app config": (
        "app_config",
        lambda: AppConfig.read({"model_list": [], "cacheBackend": bomb()}),
    ),
}


@pytest.fixture
def little_memory() -> Iterator[None]:
    """The peak memory of the test stays small."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - before < 48 * MB


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("case", CASES)
def test_what_expands_is_refused_before_it_is_written_out(case: str) -> None:
    param, check = CASES[case]
    with pytest.raises(MLCEngineError) as caught:
        check()
    assert caught.value.param is not None
    assert caught.value.param.startswith(param)
    assert caught.value.message.startswith(param)
    assert len(caught.value.message) < 1000
    assert isinstance(caught.value, BadRequestError)


@pytest.mark.parametrize(
    "value",
    [
        [], {}, "", "plain", "naïve 🙂", 0, -5, 1.5, None, True, [1, 2, 3], [1.25, 2], [True, None],
        {"a": [1, {"b": "c"}]}, [[[]]], ["a"] * 50, list(range(500)),
        {str(i): i for i in range(50)},
        10**100, [10**50] * 3,
    ],
)  # fmt: skip
def test_a_size_is_that_of_the_json(value: Any) -> None:
    size = len(json.dumps(value, ensure_ascii=False).encode())
    check_json_size(value, size)
    with pytest.raises(TooLargeError):
        check_json_size(value, size * 9 // 10 - 4)


def test_levels_are_counted() -> None:
    for value in ([[[1]]], {"a": {"b": {}}}, ({"a": ()},)):
        check_json_size(value, MB, 3)
        with pytest.raises(TooDeepError):
            check_json_size(value, MB, 2)


def test_a_list_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(BadRequestError, match="levels"):
        check_chat({"messages": [USER], "metadata": {"a": value}})
    with pytest.raises(TooLargeError):
        check_json_size(value, MB)


@pytest.mark.usefixtures("little_memory")
def test_an_error_shows_a_little_of_a_large_value() -> None:
    for value in (bomb(), dict_bomb(), [LONG] * 1000, LONG, {"a": bomb()}, (bomb(),), [[LONG]]):
        assert len(shortened(value)) <= 120
    assert shortened([1, "a", {"b": None}]) == "[1, 'a', {'b': None}]"
    assert shortened("x" * 200).startswith("'xxx")
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert len(shortened(deep)) <= 120
