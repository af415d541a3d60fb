from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.widget.intents import IntentDispatcher


class Page:
    """A dispatcher with three kinds, what they were called with, and what the page was answered."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.answers: list[Any] = []
        self._dispatcher = IntentDispatcher(
            {"stop": self.calls.append, "refuse": self._refuse, "break": self._break},
            self.answers.append,
        )

    def _refuse(self, intent: Any) -> None:
        self.calls.append(intent)
        raise BadRequestError("model = '': must be a model's name.")

    def _break(self, intent: Any) -> None:
        raise ZeroDivisionError("a bug of ours")

    def send(self, intent: Any, intent_id: Any = "1") -> None:
        self._dispatcher.take({"type": "intent", "id": intent_id, "intent": intent})

    def take(self, content: Any) -> None:
        self._dispatcher.take(content)


@pytest.fixture
def page() -> Page:
    return Page()


def ack(error: str | None, intent_id: str = "1") -> dict[str, Any]:
    return {"type": "ack", "intent": intent_id, "error": error}


def test_an_intent_is_carried_out_and_acknowledged(page: Page) -> None:
    page.send({"kind": "stop", "reply": "r"})
    assert page.calls == [{"kind": "stop", "reply": "r"}]
    assert page.answers == [ack(None)]


def test_what_comes_again_is_acknowledged_again_and_not_repeated(page: Page) -> None:
    for _ in range(3):
        page.send({"kind": "stop"})
        page.send({"kind": "refuse"}, "2")
    assert len(page.calls) == 2
    assert page.answers == 3 * [ack(None), ack("model = '': must be a model's name.", "2")]


def test_only_the_latest_ids_are_remembered(page: Page) -> None:
    for i in range(257):
        page.send({"kind": "stop"}, str(i))
    page.send({"kind": "stop"}, "256")
    assert len(page.calls) == 257
    page.send({"kind": "stop"}, "0")  # long forgotten
    assert len(page.calls) == 258


@pytest.mark.parametrize(
    "intent",
    [None, "stop", [], {}, {"kind": None}, {"kind": 3}, {"kind": ["stop"]}, {"kind": "unknown"}],
    ids=repr,
)
def test_an_intent_that_nobody_knows_is_refused(page: Page, intent: Any) -> None:
    page.send(intent)
    [answer] = page.answers
    assert "this widget does not know this intent" in answer["error"]


def test_a_bug_is_told_to_the_page_and_does_not_get_out(
    page: Page, caplog: pytest.LogCaptureFixture
) -> None:
    page.send({"kind": "break"})
    page.send({"kind": "stop"}, "2")
    assert page.answers == [ack("ZeroDivisionError: a bug of ours"), ack(None, "2")]
    assert "an intent failed" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        None,
        7,
        "intent",
        {},
        {"type": "other", "id": "1", "intent": {"kind": "stop"}},
        {"type": "intent", "intent": {"kind": "stop"}},
        {"type": "intent", "id": 1, "intent": {"kind": "stop"}},
        {"type": "intent", "id": ["1"], "intent": {"kind": "stop"}},
        {"type": "intent", "id": "x" * 65, "intent": {"kind": "stop"}},
    ],
    ids=lambda content: repr(content)[:40],
)
def test_what_is_no_intent_is_ignored(page: Page, content: Any) -> None:
    page.take(content)
    assert page.calls == page.answers == []


def test_what_takes_time_is_acknowledged_once_when_it_has_ended() -> None:
    answers: list[Any] = []
    begun: list[Any] = []

    async def play() -> None:
        gate = asyncio.Event()

        async def slow(intent: Any) -> None:
            begun.append(intent)
            await gate.wait()
            if intent.get("bad"):
                raise BadRequestError("text = '': write a message first.")

        dispatcher = IntentDispatcher({"slow": slow}, answers.append)
        good = {"type": "intent", "id": "1", "intent": {"kind": "slow"}}
        bad = {"type": "intent", "id": "2", "intent": {"kind": "slow", "bad": True}}
        for content in (good, bad, good):  # the page sends again what is not acknowledged
            dispatcher.take(content)
        await asyncio.sleep(0)
        assert (len(begun), answers) == (2, [])
        gate.set()
        while len(answers) < 2:
            await asyncio.sleep(0)
        dispatcher.take(good)

    asyncio.run(play())
    assert len(begun) == 2
    refused = ack("text = '': write a message first.", "2")
    assert answers == [ack(None), refused, ack(None)]
