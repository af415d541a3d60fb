"""Two chats side by side, from Python and by the page's intents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlc_widget.api.errors import BadRequestError, EngineTerminatedError
from mlc_widget.proxy.engines import KernelMLCEngine
from mlc_widget.widget import ChatWidget, CompareWidget

from ..waiting import until_blocking

DEADLINE = 30.0
MakeEngine = Callable[..., KernelMLCEngine]
Compare = Callable[..., CompareWidget]


@pytest.fixture
def compare(make_engine: MakeEngine) -> Iterator[Compare]:
    made: list[CompareWidget] = []

    def compare(second: KernelMLCEngine | None = None, **script: Any) -> CompareWidget:
        first = make_engine(**script)
        chats = ChatWidget(first, system="One"), ChatWidget(second or first, system="Two")
        made.append(CompareWidget(*chats))
        return made[-1]

    yield compare
    for widget in made:
        widget.close()
        for chat in widget.chats:
            chat.close()


def intent(widget: CompareWidget, **fields: Any) -> str | None:
    """Have the page's intent carried out; returns the refusal."""
    try:
        widget._intents()["choose"](fields)
    except BadRequestError as error:
        return str(error)
    return None


def said(chat: ChatWidget) -> list[str]:
    return [message["content"] for message in chat.messages if message["role"] == "user"]


@pytest.mark.parametrize("engines", [1, 2])
def test_a_message_goes_to_both_chats_each_with_its_settings(
    compare: Compare, make_engine: MakeEngine, engines: int
) -> None:
    other = make_engine(echo=True, load_needs=1) if engines == 2 else None
    widget = compare(other, echo=True)
    replies = widget.send("Hello")
    answers = [reply.result(DEADLINE)["content"] for reply in replies]
    assert ["One" in answer for answer in answers] == [True, False]
    assert ["Two" in answer for answer in answers] == [False, True]
    assert [said(chat) for chat in widget.chats] == [["Hello"], ["Hello"]]
    state = widget.get_state()
    assert state["_chats"] == [f"IPY_MODEL_{chat.model_id}" for chat in widget.chats]
    assert state["_chosen"] == {"chat": None}


def test_with_one_engine_both_replies_run_at_the_same_time_and_stop_by_themselves(
    compare: Compare,
) -> None:
    widget = compare(text="word", repeat=10_000, pace_s=0.01)
    first, second = widget.send("Go")
    until_blocking(lambda: first.text and second.text)
    assert (first.status, second.status) == ("running", "running")
    widget.chats[0].stop()
    first.result(DEADLINE)
    assert (first.status, second.status) == ("stopped", "running")
    widget.stop()
    second.result(DEADLINE)
    assert second.status == "stopped"


def test_one_chat_is_chosen_and_the_other_one_stops(compare: Compare) -> None:
    widget = compare(text="word", repeat=10_000, pace_s=0.01)
    first, second = widget.send("Go")
    assert intent(widget, chat=1) is None
    first.result(DEADLINE)
    assert (first.status, widget.chosen) == ("stopped", widget.chats[1])
    assert widget.get_state("_chosen")["_chosen"] == {"chat": 1}
    widget.stop()
    second.result(DEADLINE)
    (third,) = widget.send("Alone")
    widget.stop()
    third.result(DEADLINE)
    assert [said(chat) for chat in widget.chats] == [["Go"], ["Go", "Alone"]]
    widget.choose(None)
    assert widget.chosen is None
    widget.choose(widget.chats[0])
    assert widget.chosen is widget.chats[0]


@pytest.mark.parametrize("chat", [2, -1, "0", 0.5, 0.0, 1.0, True, False, [0], {}, "x" * 9999])
def test_what_is_neither_chat_is_refused(compare: Compare, chat: Any) -> None:
    widget = compare(echo=True)
    refusal = intent(widget, chat=chat) or ""
    assert "chat = " in refusal
    assert len(refusal) < 400
    with pytest.raises(BadRequestError, match="chats"):
        widget.choose(chat)
    assert widget.chosen is None


@pytest.mark.parametrize("dead", [0, 1])
def test_a_message_that_one_chat_cannot_take_goes_to_none(
    make_engine: MakeEngine, dead: int
) -> None:
    ended = KernelMLCEngine(runtime="scripted")
    ended.terminate()
    engines = [make_engine(echo=True)] * 2
    engines[dead] = ended
    widget = CompareWidget(ChatWidget(engines[0]), ChatWidget(engines[1]))
    with pytest.raises(EngineTerminatedError):
        widget.send("Hello")
    assert [chat.messages for chat in widget.chats] == [(), ()]
    for empty in ("", " ", 7, None):
        with pytest.raises(BadRequestError):
            widget.send(empty)
    widget.choose(widget.chats[1 - dead])
    (reply,) = widget.send("Alone")
    assert "Alone" in reply.result(DEADLINE)["content"]
    assert widget.chats[dead].messages == ()
    widget.close()
    for chat in widget.chats:
        chat.close()


def test_two_different_chats_are_needed(make_engine: MakeEngine) -> None:
    chat = ChatWidget(make_engine(echo=True))
    with pytest.raises(BadRequestError, match="another chat"):
        CompareWidget(chat, chat)
    for wrong in (make_engine(echo=True), None, {"temperature": 0}):
        with pytest.raises(TypeError, match="must be a ChatWidget"):
            CompareWidget(chat, wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="must be a ChatWidget"):
            CompareWidget(wrong, chat)  # type: ignore[arg-type]
    chat.close()
