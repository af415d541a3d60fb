"""A chat's tools: the notebook's functions, and results that are given by hand."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.function_tools import MAX_CALL_TURNS, call_function, read_tools
from mlc_widget.proxy.engines import KernelMLCEngine
from mlc_widget.widget import ChatWidget
from mlc_widget.widget.chat_request import NOT_MADE, with_all_results
from mlc_widget.widget.reply import Reply
from mlc_widget.widget.state import Message
from mlc_widget.widget.transcript import ending

from ..waiting import until
from .script_folder import write_script_folder

DEADLINE = 30.0
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelMLCEngine]:
    """One that answers everything with the same call."""
    folder = write_script_folder(tmp_path_factory.mktemp("models") / "tools", tools=True)
    with KernelMLCEngine(runtime="scripted", runtime_options={"text": CALL}) as made:
        made.reload(str(folder))
        yield made


def test_a_function_is_told_to_the_model_by_its_signature_and_docstring() -> None:
    def weather(
        city: str, days: int = 1, units: Literal["C", "F"] = "C", at: list[float] | None = None
    ) -> str:
        """Forecast the weather
        of a city.

        Args:
            city: Where.
            days: How far ahead.
        """
        return city

    found = read_tools([weather, ADD])
    assert found is not None
    assert [dict(tool) for tool in found] == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "Forecast the weather of a city.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "city": {"type": "string", "description": "Where."},
                        "days": {"type": "integer", "description": "How far ahead."},
                        "units": {"enum": ["C", "F"]},
                        "at": {
                            "anyOf": [
                                {"type": "array", "items": {"type": "number"}},
                                {"type": "null"},
                            ]
                        },
                    },
                    "required": ["city"],
                    "additionalProperties": False,
                },
            },
        },
        ADD,
    ]


@pytest.mark.parametrize("tools", [[lambda *all: 0], {"add": 3}, {"a b": len}, "add"])
def test_what_is_no_tool_is_refused(tools: Any) -> None:
    with pytest.raises(BadRequestError, match="tools"):
        read_tools(tools)


def test_annotations_may_be_other_than_types() -> None:
    def look(city, where, days, names): ...  # type: ignore[no-untyped-def]

    look.__annotations__ = {
        "city": "the name of a city", "where": "int.nowhere", "days": int, "names": [str]
    }  # fmt: skip
    (found,) = read_tools([look]) or []
    assert found["function"]["parameters"]["properties"] == {
        "city": {},
        "where": {},
        "days": {"type": "integer"},
        "names": {},
    }


@pytest.mark.parametrize("function", [max, dict])
def test_a_function_whose_arguments_cannot_be_read_is_refused(function: Any) -> None:
    with pytest.raises(
        BadRequestError, match=f"tools: {function.__name__}: its arguments cannot be read"
    ):
        read_tools([function])


async def test_what_a_function_raises_is_told_to_the_model() -> None:
    async def add(a: int, b: int) -> int:
        return a + b

    def call(arguments: str) -> dict[str, Any]:
        return {"id": "c", "function": {"name": "add", "arguments": arguments}}

    assert await call_function({"add": add}, call('{"a": 2, "b": 3}')) == "5"
    assert "TypeError" in await call_function({"add": add}, call('{"a": 2, "c": 3}'))
    assert "JSONDecodeError" in await call_function({"add": add}, call('{"a": 2'))


async def test_functions_answer_on_the_user_s_loop_but_not_for_ever(
    engine: KernelMLCEngine,
) -> None:
    threads: list[threading.Thread] = []

    async def add(a: int, b: int) -> int:
        await asyncio.sleep(0)
        threads.append(threading.current_thread())
        return a + b

    chat = ChatWidget(engine, tools={"add": add})
    try:
        last = await chat.send("2 + 3?")
    finally:
        chat.close()
    assert threads == [threading.current_thread()] * MAX_CALL_TURNS
    assert last["tool_calls"][0]["function"]["name"] == "add"
    roles = [message["role"] for message in chat.messages]
    assert roles == ["user", *["assistant", "tool"] * MAX_CALL_TURNS, "assistant"]
    answer = chat.messages[2]
    assert answer["content"] == "5"
    assert answer["tool_call_id"] == chat.messages[1]["tool_calls"][0]["id"]
    assert "**add**" in chat.export("md")
    # It can be gone on with.
    again = ChatWidget(engine, tools=[ADD], history=json.loads(chat.export("json")))
    assert again.send_results({"add": 5}).result(DEADLINE)["tool_calls"]
    again.close()


async def test_what_is_said_meanwhile_waits_for_the_results(engine: KernelMLCEngine) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def add(a: int, b: int) -> int:
        began.set()
        await go_on.wait()
        return a + b

    chat = ChatWidget(engine, tools=[add])
    first, second = chat.send("2 + 3?"), chat.send("And again?")
    await asyncio.wait_for(began.wait(), DEADLINE)
    assert second.status == "queued"
    go_on.set()
    for reply in (first, second):
        await asyncio.wait_for(_wait(reply), DEADLINE)
    turn = ["user", *["assistant", "tool"] * MAX_CALL_TURNS, "assistant"]
    assert [message["role"] for message in chat.messages] == turn * 2
    said = [message["content"] for message in chat.messages if message["role"] == "user"]
    assert said == ["2 + 3?", "And again?"]
    # Nothing is in another branch, and what follows a message goes with it.
    session = chat._session
    assert not any(message["branches"] for message in session.state.to_json()["messages"])
    start = session.state.path()[len(turn)]
    chat._link.submit(_soon(session.delete, start.id)).result(DEADLINE)
    assert [message["role"] for message in chat.messages] == turn
    chat.close()


async def test_what_was_said_goes_on_without_results_that_never_come(
    engine: KernelMLCEngine,
) -> None:
    async def add(a: int, b: int) -> int:
        raise asyncio.CancelledError

    chat = ChatWidget(engine, tools=[add])
    first, second = chat.send("2 + 3?"), chat.send("And again?")
    for reply in (first, second):
        assert (await asyncio.wait_for(_wait(reply), DEADLINE))["tool_calls"]
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    chat.close()


async def _wait(reply: Reply) -> dict[str, Any]:
    return await reply


async def test_calls_that_are_interrupted_are_left_to_the_user(engine: KernelMLCEngine) -> None:
    async def add(a: int, b: int) -> int:
        raise asyncio.CancelledError

    chat = ChatWidget(engine, tools=[add])
    last = await chat.send("2 + 3?")
    assert last["tool_calls"]
    assert [message.calling for message in chat._session.state.path()] == [False, False]
    assert (await chat.send_results(["5"]))["tool_calls"]
    chat.close()


def test_results_are_given_by_hand(engine: KernelMLCEngine) -> None:
    chat = ChatWidget(engine, tools=[ADD])
    with pytest.raises(BadRequestError, match="the conversation is empty"):
        chat.send_results(["5"])
    reply = chat.send("2 + 3?")
    assert json.loads(reply.result(DEADLINE)["tool_calls"][0]["function"]["arguments"])["a"] == 2
    for wrong in ([], ["5", "6"], "5", {"subtract": 1}):
        with pytest.raises(BadRequestError, match="results"):
            chat.send_results(wrong)
    chat.send_results([{"sum": 5}]).result(DEADLINE)
    assert chat.messages[2]["content"] == '{"sum": 5}'
    # A result, too, can be answered anew, and taken away.
    session = chat._session
    chat._link.submit(_soon(session.retry, session.state.path()[2].id)).result(DEADLINE).result(30)
    assert session.state.path()[3].id in session.state.to_json()["messages"][3]["branches"]
    chat._link.submit(_soon(session.delete, session.state.path()[2].id)).result(DEADLINE)
    assert [message["role"] for message in chat.messages] == ["user", "assistant"]
    chat.close()


async def _soon(function: Any, *args: Any) -> Any:
    return function(*args)


def test_a_page_s_form_sends_them_too(engine: KernelMLCEngine, tmp_path: Path) -> None:
    chat = ChatWidget(engine, tools=[ADD])
    reply = chat.send("2 + 3?")
    reply.result(DEADLINE)
    ended = threading.Event()
    chat.on_reply(lambda _: ended.set())
    intent = {"kind": "results", "reply": reply.id, "results": ["5"]}
    chat._take({"type": "intent", "id": "1", "intent": intent})
    assert ended.wait(DEADLINE)
    assert [message["role"] for message in chat.messages] == [
        "user",
        *["assistant", "tool"],
        "assistant",
    ]
    chat.close()


@pytest.fixture(scope="module")
def hanging_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelMLCEngine]:
    """One that makes two calls and hangs in the second, so that it can be cut or stopped."""
    folder = write_script_folder(tmp_path_factory.mktemp("models") / "tools", tools=True)
    script = {"text": f"{CALL}\n{CALL}", "hang_after": 10}
    with KernelMLCEngine(runtime="scripted", runtime_options=script) as made:
        made.reload(str(folder))
        yield made


@pytest.mark.parametrize("max_tokens", [2, 3, 4, 8, 10, None])
async def test_a_call_that_was_cut_is_never_made(
    hanging_engine: KernelMLCEngine, max_tokens: int | None
) -> None:
    made: list[Any] = []

    def add(a: int = 0, b: int = 0) -> int:
        made.append((a, b))
        return a + b

    chat = ChatWidget(hanging_engine, tools=[add], max_tokens=max_tokens)

    async def ended(reply: Reply) -> dict[str, Any]:
        if max_tokens is None:
            await until(lambda: len(chat.messages[-1].get("tool_calls", ())) >= 2)
            reply.stop()
        return await asyncio.wait_for(_wait(reply), DEADLINE)

    first = chat.send("2 + 3?")
    message = await ended(first)
    assert message["tool_calls"][0]["function"]["name"] == "add"
    assert first.finish_reason == (None if max_tokens is None else "length")
    with pytest.raises(BadRequestError, match="before its calls were complete"):
        chat.send_results(["5"] * len(message["tool_calls"]))
    # What was said can be gone on with: by another message, by making it anew, by changing it.
    await ended(chat.send("Again?"))
    session = chat._session
    for again in (
        functools.partial(session.retry, session.state.path()[-1].id),
        functools.partial(session.edit, session.state.path()[-2].id, "Once more?"),
    ):
        await ended(await asyncio.wrap_future(chat._link.submit(_soon(again))))
    assert [m["role"] for m in chat.messages] == ["user", "assistant"] * 2
    assert "were not made" in chat.export("md")
    chat.close()
    assert made == []


@pytest.mark.parametrize(
    ("status", "finish", "whole"),
    [
        ("done", "tool_calls", True),
        ("done", "", True),  # of a history
        ("done", "length", False),
        ("done", "stop", False),  # by a stop string, within the call
        ("stopped", "abort", False),
        ("stopped", "tool_calls", False),
        ("error", "", False),
        ("running", "", False),
    ],
)
def test_which_calls_are_whole(status: Any, finish: str, whole: bool) -> None:
    calls = ({"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}},)
    message = Message("m", "assistant", "", tool_calls=calls, status=status, finish=finish)
    assert message.calls_are_whole is whole
    assert not replace(message, tool_calls=()).calls_are_whole
    assert ("not made" in " ".join(ending(message))) is not whole


def test_every_call_of_a_request_has_a_result() -> None:
    def called(*ids: str) -> dict[str, Any]:
        return {"role": "assistant", "content": "", "tool_calls": [{"id": i} for i in ids]}

    def result(call_id: str, content: str = NOT_MADE) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": call_id, "content": content}

    user = {"role": "user", "content": "?"}
    for given, wanted in (
        ([user, called("a"), user], [user, called("a"), result("a"), user]),
        ([user, called("a", "b")], [user, called("a", "b"), result("a"), result("b")]),
        (
            [user, called("a", "b"), result("b", "5"), user, called("a"), result("a", "6")],
            [
                *[user, called("a", "b"), result("b", "5"), result("a")],
                *[user, called("a"), result("a", "6")],
            ],
        ),
        ([user, {"role": "assistant", "content": "4"}, user],) * 2,
    ):
        assert with_all_results(given) == wanted
