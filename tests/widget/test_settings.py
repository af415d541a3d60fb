"""A chat's settings as traits, and the user's callbacks."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.proxy.engines import KernelMLCEngine
from mlc_widget.widget import ChatWidget, Reply

from ..waiting import until_blocking

MakeEngine = Callable[..., KernelMLCEngine]
DEADLINE = 30.0


@pytest.fixture
def open_chat() -> Iterator[Callable[..., ChatWidget]]:
    chats: list[ChatWidget] = []

    def open_(engine: object, **options: Any) -> ChatWidget:
        chats.append(ChatWidget(engine, **options))
        return chats[-1]

    yield open_
    for chat in chats:
        chat.close()


OpenChat = Callable[..., ChatWidget]


def settled(chat: ChatWidget) -> None:
    """Wait until the I/O thread has taken what was set before."""

    async def nothing() -> None:
        pass

    chat._link.submit(nothing()).result(DEADLINE)


def test_a_misspelt_argument_is_answered_by_the_nearest() -> None:
    told = "ChatWidget got an unexpected keyword argument 'temprature'. Did you mean 'temperature'?"
    with pytest.raises(TypeError, match=re.escape(told)):
        ChatWidget(None, temprature=0.2)  # type: ignore[call-arg]


def test_settings_are_traits_that_the_next_reply_heeds(
    make_engine: MakeEngine, open_chat: OpenChat
) -> None:
    chat = open_chat(make_engine(echo=True), temperature=0.5, system="Be brief")
    assert (chat.temperature, chat.system, chat.top_p) == (0.5, "Be brief", None)
    assert "Be brief" in chat.send("one").result(DEADLINE)["content"]
    chat.system = "Be verbose"
    chat.max_tokens = 3
    reply = chat.send("two")
    assert reply.result(DEADLINE)["content"]
    stats = reply.stats
    assert stats is not None
    assert stats["completion_tokens"] == 3
    chat.max_tokens = None
    assert "Be verbose" in chat.send("three").result(DEADLINE)["content"]


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("temperature", 3, "between 0 and 2"),
        ("temperature", "hot", "give a number"),
        ("top_p", -0.5, "between 0 and"),
        ("top_k", 1.5, "give an integer"),
        ("min_p", 2, "between 0 and 1"),
        ("max_tokens", 0, "between 1 and"),
        ("seed", 2**64, "between -"),
        ("system", 4, "must be a string"),
        ("schema", "{", "not valid JSON"),
        ("tools", [{"type": "wrench"}], "tools"),
    ],
)
def test_wrong_settings_are_refused_and_the_old_ones_stay(
    make_engine: MakeEngine, open_chat: OpenChat, name: str, value: Any, complaint: str
) -> None:
    chat = open_chat(make_engine(text="Hello"))
    with pytest.raises(BadRequestError, match=complaint):
        setattr(chat, name, value)
    assert getattr(chat, name) is None
    with pytest.raises(BadRequestError, match=complaint):
        open_chat(make_engine(text="Hello"), **{name: value})
    assert chat.send("Hi").result(DEADLINE)["content"] == "Hello"


def test_what_the_page_sets_is_observed_on_the_user_s_side(
    make_engine: MakeEngine, open_chat: OpenChat
) -> None:
    chat = open_chat(make_engine(text="Hello"))
    seen: list[tuple[Any, str]] = []
    chat.observe(
        lambda change: seen.append((change.new, threading.current_thread().name)), "temperature"
    )
    intent = {"kind": "set", "name": "temperature", "value": 0.25}
    chat._handle_custom_msg({"type": "intent", "id": "a", "intent": intent}, [])
    until_blocking(lambda: bool(seen))
    assert seen == [(0.25, "mlc_widget callbacks")]
    assert chat.temperature == 0.25
    chat.temperature = 0.75
    settled(chat)
    assert chat._session.options.temperature == 0.75
    assert chat.get_state("_options")["_options"]["temperature"] == 0.75


def test_callbacks_get_every_reply_and_cannot_freeze_or_break_the_engine(
    make_engine: MakeEngine, open_chat: OpenChat, caplog: pytest.LogCaptureFixture
) -> None:
    chat = open_chat(make_engine(text="one two three", pace_s=0.01))
    hold = threading.Event()
    got: list[Reply] = []

    def slow(reply: Reply) -> None:
        hold.wait(DEADLINE)
        got.append(reply)

    def broken(reply: Reply) -> None:
        raise RuntimeError("the user's own fault")

    chat.on_reply(broken)
    stop = chat.on_reply(slow)
    # While the first callback sleeps, three replies come, and the engine answers elsewhere, too.
    replies = [chat.send(text) for text in ("a", "b", "c")]
    assert [r.result(DEADLINE)["content"] for r in replies] == ["one two three"] * 3
    assert open_chat(make_engine(text="one two three", pace_s=0.01)).send("d").result(DEADLINE)
    assert got == []
    with caplog.at_level(logging.ERROR):
        hold.set()
        until_blocking(lambda: len(got) == 3)
    assert got == replies
    assert [r.status for r in got] == ["done"] * 3
    stop()
    chat.send("e").result(DEADLINE)
    assert len(got) == 3
    assert "the user's own fault" in caplog.text


async def test_callbacks_run_on_the_loop_that_made_the_chat(
    make_engine: MakeEngine, open_chat: OpenChat
) -> None:
    chat = open_chat(make_engine(text="Hello"))
    here = threading.get_ident()
    came: asyncio.Queue[tuple[int, str]] = asyncio.Queue()

    async def callback(reply: Reply) -> None:
        await asyncio.sleep(0)
        came.put_nowait((threading.get_ident(), reply.text))

    chat.on_reply(callback)
    await chat.send("Hi")
    assert await asyncio.wait_for(came.get(), DEADLINE) == (here, "Hello")


def test_without_a_reply_in_sight_nothing_is_called(
    make_engine: MakeEngine, open_chat: OpenChat
) -> None:
    chat = open_chat(make_engine(text="word", repeat=10_000, pace_s=0.01))
    ended = threading.Event()
    chat.on_reply(lambda reply: ended.set() if reply.status == "stopped" else None)
    reply = chat.send("Go on")
    until_blocking(lambda: bool(reply.text))
    assert not ended.is_set()
    chat.stop()
    assert ended.wait(DEADLINE)
