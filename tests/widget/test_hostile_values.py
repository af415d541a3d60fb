"""Values of any size and kind, from files and pages: each is refused in a few words, or taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest

from mlc_widget import create_kernel_mlc_engine, create_mlc_engine
from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_params import SamplingParams
from mlc_widget.widget.approvals import Approvals, Question
from mlc_widget.widget.chat_listener import ChatListener
from mlc_widget.widget.history import read_history
from mlc_widget.widget.intents import IntentDispatcher
from mlc_widget.widget.link import link_of
from mlc_widget.widget.message_tree import MessageTree
from mlc_widget.widget.options import OPTION_NAMES, check_option
from mlc_widget.widget.questions import check_text
from mlc_widget.widget.title import check_title

BIG = "x" * 300_000


class Talkative:
    """Has a huge `repr`."""

    def __repr__(self) -> str:
        return BIG


VALUES: dict[str, Any] = {
    "text": BIG,
    "bytes": BIG.encode(),
    "list": [BIG],
    "texts": 3 * [BIG],
    "many": 100_000 * ["x"],
    "tuple": (BIG,),
    "set": {BIG},
    "key": {BIG: 1},
    "value": {"a": BIG},
    "deep": {"a": {BIG: {BIG: 1}}},
    "brackets": "[" * 100_000,
    "objects": '{"a":' * 100_000,
    "quoted": f'"{BIG}"',
    "surrogates": "\ud800" * 1000,
    "NUL": "a\0b",
    "integer": 10**10_000,
    "object": Talkative(),
    "function": print,
}
CHECKS: dict[str, Callable[[Any], object]] = {
    **{name: lambda value, name=name: check_option(name, value) for name in OPTION_NAMES},
    **{
        f"sampling.{name}": lambda value, name=name: check_option("sampling", {name: value})
        for name in get_type_hints(SamplingParams)
    },
    "name": lambda value: check_option(value, 1),
    "field": lambda value: check_option("sampling", {_key(value): 1}),
    "tool": lambda value: check_option("tools", {_key(value): value}),
    "prompt": lambda value: check_option("system_prompts", {"Short": value}),
    "prompt's name": lambda value: check_option("system_prompts", {_key(value): "Be brief."}),
    "title": check_title,
    "history": read_history,
    "history.title": lambda value: read_history({"title": value}),
    "history.messages": lambda value: read_history({"messages": value}),
    "history[0]": lambda value: read_history([value]),
    "history[0].field": lambda value: read_history([{"role": "user", _key(value): 1}]),
    "text": check_text,
    "message": MessageTree().find,
    "decision": lambda value: APPROVALS.decide("a", 1, value),
    "call": lambda value: APPROVALS.decide("a", value, "once"),
}
APPROVALS = Approvals(MessageTree(), ChatListener(lambda: None, print, lambda: None))


def _key(value: Any) -> Any:
    """The value as a key of a mapping, where it can be one."""
    try:
        hash(value)
    except TypeError:
        return BIG
    return value


def _refusal(check: Callable[[Any], object], value: Any) -> BadRequestError | None:
    try:
        check(value)
    except BadRequestError as error:
        return error
    return None


@pytest.mark.parametrize("check", CHECKS)
def test_a_refusal_is_short_whatever_was_given(check: str) -> None:
    for kind, value in VALUES.items():
        refusal = _refusal(CHECKS[check], value)
        if refusal is not None:
            assert len(refusal.message) < 1500, kind
            assert len(refusal.param or "") < 300, kind


def test_other_refusals_are_short_too() -> None:
    answers: list[Any] = []
    dispatcher = IntentDispatcher({}, answers.append)
    dispatcher.take({"type": "intent", "id": "a", "intent": {"kind": BIG}})
    assert len(answers[0]["error"]) < 300
    with pytest.raises(TypeError) as caught:
        link_of(Talkative())
    assert len(str(caught.value)) < 400


async def make_engine(*_: object) -> None: ...


@pytest.mark.parametrize("make", [make_engine, create_kernel_mlc_engine, create_mlc_engine])
def test_an_engine_that_is_not_awaited_is_told_so(make: Any) -> None:
    coroutine = make("demo")
    with pytest.raises(TypeError, match=rf"write `engine = await {make.__name__}\(…\)`"):
        link_of(coroutine)
    coroutine.close()


@pytest.mark.parametrize("call", [True, 1.0, "1", None])
async def test_only_the_number_of_a_call_decides_about_it(call: Any) -> None:
    allowed = asyncio.ensure_future(APPROVALS.is_allowed("a", Question(1, "s", "t", "{}", "key")))
    await asyncio.sleep(0)  # begins to wait
    with pytest.raises(BadRequestError, match="no decision"):
        APPROVALS.decide("a", call, "once")
    APPROVALS.decide("a", 1, "never")
    assert await allowed is False
