"""`tools=` of a map: calls by the user's functions, on both kinds of engines, and their bounds."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest

from mlc_widget import (
    AsyncMLCEngine,
    AsyncMLCEngineInterface,
    BadRequestError,
    MapReport,
    MLCEngineInterface,
)
from mlc_widget.api.function_tools import MAX_CALL_TURNS
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.limits import LIMITS

from ...waiting import until
from ...widget.script_folder import write_script_folder
from .conftest import FakeCore

PRICES = {"tea": 3, "nuts": 5}


def price(product: str) -> int:
    """The price of a product."""
    return PRICES[product]


class CallingCore(FakeCore):
    """Calls ``price`` with each word of the prompt in turn, and answers with what it was told."""

    calls_for_ever = False

    async def request(self, kind: str, request: dict[str, Any]) -> dict[str, Any]:
        conversation = request["messages"]
        words = next(m["content"] for m in conversation if m["role"] == "user").split()
        told = [m["content"] for m in conversation if m["role"] == "tool"]
        response = await super().request(kind, request)
        response["choices"][0]["message"]["content"] = json.dumps(told)
        if "tools" in request and (self.calls_for_ever or len(told) < len(words)):
            word = words[len(told) % len(words)]
            call = {
                "index": 0,
                "id": f"random-{id(response)}",
                "type": "function",
                "function": {"name": "price", "arguments": json.dumps({"product": word})},
            }
            response["choices"][0]["message"] = {"content": None, "tool_calls": [call]}
            response["choices"][0]["finish_reason"] = (
                "tool_calls" if self.finish == "stop" else self.finish
            )
        return response


@pytest.fixture
def core() -> CallingCore:
    return CallingCore()


ROWS = [{"text": "tea"}, {"text": "tea nuts"}, {"text": None}, {"text": "nuts nuts tea"}]
TOLD: list[Any] = ['["3"]', '["3", "5"]', None, '["5", "5", "3"]']


@pytest.mark.parametrize("blocks", [False, True])
async def test_rows_call_functions_and_go_on_with_their_results(
    engine: AsyncMLCEngineInterface, blocking: MLCEngineInterface, core: CallingCore, blocks: bool
) -> None:
    threads: set[threading.Thread] = set()

    def asked(product: str) -> int:
        threads.add(threading.current_thread())
        return price(product)

    report = MapReport()
    arguments: Any = {"tools": {"price": asked}, "report": report, "tool_choice": "required"}
    if blocks:
        made = blocking.map("{text}", ROWS, **arguments)
    else:
        made = await engine.map("{text}", ROWS, **arguments)
    assert [row["reply"] for row in made] == TOLD
    assert threads == {threading.current_thread()}
    assert (report.tool_calls, report.tool_errors, report.errors) == (6, 0, 0)
    assert report.prompt_tokens == 3 * 9, "of all turns"
    assert "6 tool calls" in str(report)
    assert core.most <= 8
    first = [r for r in core.requests if len(r["messages"]) == 1]
    assert len(first) == 3
    for request in core.requests:
        assert request["tools"][0]["function"]["name"] == "price"
        assert request.get("tool_choice") == ("required" if request in first else None)
    core.requests.clear()
    again = await engine.map("{text}", ROWS, **arguments)
    assert again == made
    assert core.requests == [], "the last replies are cached"
    assert report.tool_calls == 0


async def test_another_description_of_a_tool_is_another_question(
    engine: AsyncMLCEngineInterface, core: CallingCore
) -> None:
    def other(product: str) -> int:
        """What a product costs."""
        return price(product)

    rows = ROWS[:1]
    assert await engine.map("{text}", rows, tools=[price]) == [{"text": "tea", "reply": '["3"]'}]
    for change in ({"tools": {"price": other}}, {"tools": None}, {"tools": []}):
        core.requests.clear()
        await engine.map("{text}", rows, **change)  # type: ignore[arg-type]
        asked = len(core.requests)
        assert asked == (0 if change["tools"] == [] else 1 if change["tools"] is None else 2)


async def test_the_same_row_gets_the_same_messages_whatever_the_ids_of_its_calls(
    engine: AsyncMLCEngineInterface, core: CallingCore
) -> None:
    await engine.map("{text}", ROWS, tools=[price], cache=False)
    first = sorted(json.dumps(r["messages"]) for r in core.requests)
    core.requests.clear()
    await engine.map("{text}", ROWS[::-1], tools=[price], cache=False)
    assert sorted(json.dumps(r["messages"]) for r in core.requests) == first


async def test_coroutine_functions_of_many_rows_wait_at_a_time(
    engine: AsyncMLCEngineInterface, core: CallingCore
) -> None:
    waiting, gate, loop = 0, asyncio.Event(), asyncio.get_running_loop()

    async def slow(product: str) -> dict[str, str]:
        nonlocal waiting
        assert asyncio.get_running_loop() is loop
        waiting += 1
        await gate.wait()
        return {"of": product}

    rows = [{"text": f"thing{i}"} for i in range(6)]
    task = asyncio.create_task(engine.map("{text}", rows, tools={"price": slow}))
    await until(lambda: waiting == 6)
    gate.set()
    assert [json.loads(row["reply"]) for row in await task] == [
        [f'{{"of": "thing{i}"}}'] for i in range(6)
    ]


@pytest.mark.parametrize("stops", [False, True])
async def test_the_end_of_a_map_ends_the_functions_that_wait(
    engine: AsyncMLCEngineInterface, core: CallingCore, stops: bool
) -> None:
    waiting, ended = 0, 0

    async def endless(product: str) -> None:
        nonlocal waiting, ended
        waiting += 1
        try:
            await asyncio.Event().wait()
        finally:
            ended += 1

    report = MapReport()
    task = asyncio.create_task(engine.map("{text}", ROWS, tools={"price": endless}, report=report))
    await until(lambda: waiting == 3)
    if stops:
        report.stop()
        assert [bool(row["error"]) for row in await task] == [True, True, False, True]
    else:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until(lambda: ended == 3)


@pytest.mark.parametrize("stops", [False, True])
async def test_functions_end_whose_results_nothing_awaits_yet(
    engine: AsyncMLCEngineInterface, core: CallingCore, stops: bool
) -> None:
    ended, gate = 0, threading.Event()
    report = MapReport()

    async def endless() -> None:
        nonlocal ended
        if stops:
            report.stop()
        else:
            task.cancel()
        try:
            await asyncio.Event().wait()
        finally:
            ended += 1

    def holds_the_home_loop(product: str) -> Any:
        HomeLoop.shared().call_soon(gate.wait)
        return endless()

    tools = {"price": holds_the_home_loop}
    task = asyncio.create_task(engine.map("{text}", [{"text": "tea"}], tools=tools, report=report))
    try:
        await until(lambda: ended == 1)
    finally:
        gate.set()
    if stops:
        assert (await task)[0]["error"]
    else:
        with pytest.raises(asyncio.CancelledError):
            await task


def _raises(product: str) -> None:
    raise KeyError(product)


async def _raises_later(product: str) -> None:
    raise TimeoutError("no answer")


async def _cancelled(product: str) -> None:
    raise asyncio.CancelledError


def _no_arguments() -> None:
    """Called with an argument that it does not take."""


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (_raises, "Error: KeyError: 'tea'"),
        (_raises_later, "Error: TimeoutError: no answer"),
        (_cancelled, "Error: CancelledError"),
        (_no_arguments, "Error: TypeError: "),
    ],
)
async def test_the_model_is_told_what_a_function_raises(
    engine: AsyncMLCEngineInterface, caplog: pytest.LogCaptureFixture, function: Any, told: str
) -> None:
    report = MapReport()
    with caplog.at_level(logging.WARNING):
        made = await engine.map("{text}", ROWS, tools={"price": function}, report=report)
    assert told in json.loads(made[0]["reply"])[0]
    assert (report.errors, report.tool_errors) == (0, report.tool_calls)
    assert "failed tool calls" in str(report)
    assert caplog.text.count("The tool price failed") == 1


def test_an_awaitable_in_a_blocking_map_is_told_as_an_error(blocking: MLCEngineInterface) -> None:
    tools = {"price": lambda product: _raises_later(product)}
    (row,) = blocking.map("{text}", ROWS[:1], tools=tools)
    assert "cannot await" in row["reply"]


async def test_a_row_that_only_calls_fails_alone(
    engine: AsyncMLCEngineInterface, core: CallingCore
) -> None:
    core.calls_for_ever = True
    report = MapReport()
    rows = [{"text": "tea"}, {"text": None}]
    made = await engine.map("{text}", rows, tools=[price], report=report)
    assert "without an answer" in made[0]["error"]
    assert made[1]["error"] is None
    assert report.tool_calls == MAX_CALL_TURNS
    assert len(core.requests) == MAX_CALL_TURNS + 1


async def test_a_call_that_was_cut_off_is_not_made(
    engine: AsyncMLCEngineInterface, core: CallingCore
) -> None:
    core.finish = "length"
    report = MapReport()
    (row,) = await engine.map("{text}", ROWS[:1], tools=[price], report=report)
    assert "cut off in a call" in row["error"]
    assert (report.tool_calls, report.truncated) == (0, 1)


async def test_a_result_that_is_too_large_is_an_error_of_its_row(
    engine: AsyncMLCEngineInterface,
) -> None:
    tools = {"price": lambda product: "x" * (LIMITS.prompt_bytes if product == "tea" else 9)}
    made = await engine.map("{text}", [{"text": "tea"}, {"text": "nuts"}], tools=tools)
    assert "too large" in made[0]["error"]
    assert made[1]["reply"] == f'["{"x" * 9}"]'


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tools": [{"type": "function", "function": {"name": "price"}}]}, "give a function"),
        ({"tools": ["price"]}, r"tools\[0\] = 'price': give a function"),
        ({"tools": [price, object()]}, r"tools\[1\] = <object .*give a function"),
        ({"tools": "price"}, "give a list"),
        ({"tools": {"price": 5}}, "not a function"),
        ({"tools": [print]}, "by name only"),
        ({"tools": [price, price]}, "two tools"),
        ({"tool_choice": "required"}, "needs tools"),
        ({"tools": [price], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [price], "schema": Literal["a"], "probabilities": True}, "leave tools out"),
    ],
)
async def test_wrong_tools_are_refused_before_work(
    engine: AsyncMLCEngineInterface, core: CallingCore, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadRequestError, match=words):
        await engine.map("{text}", ROWS, **arguments)
    assert core.requests == []


def test_a_blocking_map_refuses_coroutine_functions(
    blocking: MLCEngineInterface, core: CallingCore
) -> None:
    with pytest.raises(BadRequestError, match="_raises_later is a coroutine function"):
        blocking.map("{text}", ROWS, tools=[_raises_later])
    assert core.requests == []


@pytest.fixture
async def scripted(tmp_path: Path) -> AsyncIterator[AsyncMLCEngine]:
    """An engine that answers everything with the same call, by a template that has tools."""
    text = '<tool_call>\n{"name": "price", "arguments": {"product": "tea"}}\n</tool_call>'
    folder = write_script_folder(tmp_path / "tools", tools=True)
    async with AsyncMLCEngine(runtime="scripted", runtime_options={"text": text}) as engine:
        await engine.reload(str(folder))
        yield engine


async def test_calls_and_results_pass_an_engine_s_template(scripted: AsyncMLCEngine) -> None:
    report = MapReport()
    (row,) = await scripted.map("{text}", ROWS[:1], tools=[price], report=report)
    assert "without an answer" in row["error"]
    assert report.tool_calls == MAX_CALL_TURNS
    (row,) = await scripted.map("{text}", ROWS[:1], tools=[price], tool_choice="none")
    assert "tool_call" in row["reply"]
