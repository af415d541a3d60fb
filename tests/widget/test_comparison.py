"""Answers of a chat that are compared, by the page's intents."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.proxy.engines import KernelMLCEngine
from mlc_widget.widget import ChatWidget

from ..waiting import until_blocking

DEADLINE = 30.0
MakeEngine = Callable[..., KernelMLCEngine]


@pytest.fixture
def chat(make_engine: MakeEngine) -> Iterator[ChatWidget]:
    chat = ChatWidget(make_engine(echo=True), system="One")
    yield chat
    chat.close()


def intend(chat: ChatWidget, kind: str, /, **fields: Any) -> str:
    """Have an intent of the page's carried out; returns the refusal."""

    async def carry_out() -> None:
        done = chat._intents()[kind](fields)
        if inspect.isawaitable(done):
            await done

    try:
        chat.engine_link.submit(carry_out()).result(DEADLINE)
    except BadRequestError as error:
        return str(error)
    return ""


def contents(chat: Any) -> list[str]:
    return [message["content"] for message in chat.messages]


def sides(chat: ChatWidget) -> list[Any]:
    """The two chats, once they have answered."""
    widgets = [side.widget for side in chat._comparison._sides]
    until_blocking(lambda: all(side.messages[-1]["role"] == "assistant" for side in widgets))
    until_blocking(lambda: all(side._session.state.path()[-1].status == "done" for side in widgets))
    return widgets


def test_the_last_message_is_answered_again_and_one_answer_kept(chat: ChatWidget) -> None:
    assert "write a message" in intend(chat, "compare", settings={})
    said = chat.send("Hello").result(DEADLINE)["content"]
    assert "temperature = 9" in intend(chat, "compare", settings={"temperature": 9})
    assert "settings['tools']" in intend(chat, "compare", settings={"tools": []})
    assert "model = 3" in intend(chat, "compare", model=3)
    assert chat.get_state("_comparing")["_comparing"]["chats"] == []
    assert intend(chat, "compare", settings={"system": "Two"}) == ""
    first, second = sides(chat)
    shown = chat.get_state("_comparing")["_comparing"]["chats"]
    assert shown == [first.model_id, second.model_id]
    assert "compared already" in intend(chat, "compare", settings={})
    assert contents(first) == ["Hello", said]
    other = contents(second)[-1]
    assert ("Two" in other, "Two" in said) == (True, False)
    assert "must be 0 or 1" in intend(chat, "keep", chat=2)
    assert intend(chat, "keep", chat=1) == ""
    assert contents(chat) == ["Hello", other]
    assert chat.get_state("_comparing")["_comparing"]["chats"] == []
    versions = chat.get_state("_chat")["_chat"]["messages"][-1]["branches"]
    assert len(versions) == 2  # the first answer is still there
    assert chat.system == "One"


def test_a_message_is_answered_by_two_models_until_the_reader_leaves(
    chat: ChatWidget, model_folder: Path
) -> None:
    other = str(model_folder) + "/"
    assert intend(chat, "compare", model=other, text="Hello") == ""
    engine = chat._comparison._engine
    assert isinstance(engine, KernelMLCEngine)
    first, second = sides(chat)
    assert contents(first)[0] == contents(second)[0] == "Hello"
    assert first.engine_link is chat.engine_link
    assert second.engine_link is engine.link
    assert engine.model_id == other
    assert intend(chat, "leave") == ""
    assert contents(chat) == []
    until_blocking(lambda: engine.state == "terminated")
    assert "while two answers are compared" in intend(chat, "keep", chat=0)


def test_what_is_being_written_is_waited_for(make_engine: MakeEngine) -> None:
    chat = ChatWidget(make_engine(text="word", repeat=10_000, pace_s=0.01))
    running = chat.send("Go")
    until_blocking(lambda: running.text)
    assert "is being written" in intend(chat, "compare", settings={})
    chat.stop()
    running.result(DEADLINE)
    assert intend(chat, "compare", settings={}) == ""
    assert "has not ended yet" in intend(chat, "keep", chat=1)
    chat.close()
    until_blocking(lambda: not chat._comparison.chats)
