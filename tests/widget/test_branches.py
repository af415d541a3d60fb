"""A chat's tree: editing, branches, deleting, and the settings that the page may change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.proxy.engines import KernelMLCEngine
from mlc_widget.widget import ChatWidget
from mlc_widget.widget.base import inert
from mlc_widget.widget.options import checked_options, options_json, with_options
from mlc_widget.widget.state import ChatState, Message

from .test_chat import DEADLINE, Page

MakeEngine = Callable[..., KernelMLCEngine]
OpenPage = Callable[..., Page]


@pytest.fixture
def open_page() -> Iterator[OpenPage]:
    pages: list[Page] = []

    def open_(engine: object, **options: Any) -> Page:
        pages.append(Page(engine, **options))
        return pages[-1]

    yield open_
    for page in pages:
        page.chat.close()


def tree(*edges: tuple[str, str | None]) -> ChatState:
    state = ChatState()
    for name, parent in edges:
        role = "user" if name.islower() else "assistant"
        state = state.put(Message(name, role, name, parent=parent), head=name)
    return state


def ids(state: ChatState) -> str:
    return "".join(message.id for message in state.path())


def test_a_branch_is_shown_again_where_it_was_left() -> None:
    state = tree(("a", None), ("A", "a"), ("b", "A"), ("B", "b"), ("x", None), ("X", "x"))
    assert ids(state) == "xX"
    back = state.select("a")
    assert ids(back) == "aAbB"
    assert ids(back.select("x")) == "xX"
    other = back.put(Message("c", "user", "c", parent="A"), head="c")
    assert ids(other) == "aAc"
    assert ids(other.select("x").select("a")) == "aAc"
    shown = other.to_json()["messages"]
    assert [m["branches"] for m in shown] == [["a", "x"], [], ["b", "c"]]


def test_deleting_takes_what_follows_and_shows_what_is_beside() -> None:
    state = tree(("a", None), ("A", "a"), ("b", "A"), ("B", "b"), ("x", None), ("X", "x"))
    assert ids(state.without("x")) == "aAbB"
    assert ids(state.select("a").without("A")) == "a"
    assert ids(state.without("a")) == "xX"
    assert state.without("x").without("a").head is None
    assert set(state.without("A").messages) == {"a", "x", "X"}


def messages(chat: ChatWidget) -> list[str]:
    return [message["content"] for message in chat.messages]


def test_editing_selecting_and_deleting_by_intents(
    make_engine: MakeEngine, open_page: OpenPage
) -> None:
    page = open_page(make_engine(text="Fine."))
    page.chat.send("One").result(DEADLINE)
    page.chat.send("Two").result(DEADLINE)
    first = page.chat.get_state("_chat")["_chat"]["messages"][0]["id"]
    page.intent("a", "edit", message=first, text="Else")
    assert page.wait_for_ack("a")["error"] is None
    assert messages(page.chat)[0] == "Else"
    page.intent("b", "select", message=first)
    page.wait_for_ack("b")
    assert messages(page.chat) == ["One", "Fine.", "Two", "Fine."]
    page.intent("c", "delete", message=first)
    page.wait_for_ack("c")
    assert messages(page.chat)[0] == "Else"
    page.intent("d", "edit", message=first, text="Gone")
    assert "no such message" in page.wait_for_ack("d")["error"]


def test_a_reply_that_is_deleted_while_it_runs_ends(
    make_engine: MakeEngine, open_page: OpenPage
) -> None:
    page = open_page(make_engine(text="word", repeat=5000, pace_s=0.01))
    reply = page.chat.send("One")
    later = page.chat.send("Two")
    page.wait_for(lambda msg: msg.get("content", {}).get("type") == "delta")
    first = page.chat.get_state("_chat")["_chat"]["messages"][0]["id"]
    page.intent("a", "delete", message=first)
    assert page.wait_for_ack("a")["error"] is None
    assert reply.result(DEADLINE)["content"].startswith("word")
    later.result(DEADLINE)
    assert page.chat.messages == ()
    assert page.chat.send("Three").id
    page.chat.stop()


def test_deltas_of_a_hidden_branch_stay_away(make_engine: MakeEngine, open_page: OpenPage) -> None:
    page = open_page(make_engine(text="word", repeat=300, pace_s=0.01))
    quick = page.chat.send("One")
    quick.stop()
    quick.result(DEADLINE)
    first = page.chat.get_state("_chat")["_chat"]["messages"][0]["id"]
    page.intent("a", "edit", message=first, text="Else")
    page.wait_for(lambda msg: msg.get("content", {}).get("type") == "delta")
    page.intent("b", "select", message=first)
    page.wait_for_ack("b")
    count = len(page.customs("delta"))
    page.intent("c", "resync")
    page.wait_for_ack("c")
    assert page.chat.get_state("_live")["_live"] == {}
    assert len(page.customs("delta")) == count
    page.chat.stop()


def test_a_new_chat_leaves_the_earlier_one_beside_it(
    make_engine: MakeEngine, open_page: OpenPage
) -> None:
    page = open_page(make_engine(text="Fine."))
    page.chat.send("One").result(DEADLINE)
    page.intent("a", "export", format="md")
    assert page.wait_for_ack("a")["error"] is None
    (file,) = page.customs("export")
    assert (file["format"], file["text"]) == ("md", page.chat.export())
    page.intent("b", "export", format="exe")
    assert "give one of md, json, ipynb" in page.wait_for_ack("b")["error"]
    page.intent("c", "new")
    page.wait_for_ack("c")
    shown = page.chat.get_state("_chat")["_chat"]
    assert (page.chat.messages, shown["messages"]) == ((), [])
    page.intent("d", "select", message=shown["earlier"])
    page.wait_for_ack("d")
    assert [m["content"] for m in page.chat.messages] == ["One", "Fine."]
    page.chat.new_chat()
    page.chat.send("Two").result(DEADLINE)
    assert [m["content"] for m in page.chat.messages] == ["Two", "Fine."]
    shown = page.chat.get_state("_chat")["_chat"]
    assert (len(shown["messages"][0]["branches"]), shown["earlier"]) == (2, None)


def test_settings_are_checked_and_mirrored(make_engine: MakeEngine, open_page: OpenPage) -> None:
    page = open_page(make_engine(text="Fine."), temperature=0.5)
    page.intent("a", "set", name="temperature", value=9)
    assert "temperature = 9" in page.wait_for_ack("a")["error"]
    page.intent("b", "set", name="max_tokens", value=3)
    assert page.wait_for_ack("b")["error"] is None
    shown = page.chat.get_state("_options")["_options"]
    assert (shown["temperature"], shown["max_tokens"]) == (0.5, 3)
    assert "demo" in [model["name"] for model in shown["models"]]
    page.intent("c", "set", name="rm", value=3)
    assert "no such setting" in page.wait_for_ack("c")["error"]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("top_p", -0.5, r"top_p = -0\.5"),
        ("max_tokens", 1.5, r"max_tokens = 1\.5"),
        ("seed", 2**64, "seed = 18446744073709551616"),
        ("system", 5, "must be a string"),
        ("schema", "{", "not valid JSON"),
        ("schema", "[]", "must be an object"),
        ("tools", [{"type": "function"}], "tools"),
    ],
)
def test_settings_that_no_engine_takes_are_refused(name: str, value: Any, reason: str) -> None:
    with pytest.raises(BadRequestError, match=reason):
        checked_options(**{name: value})


def test_settings_become_a_request() -> None:
    options = checked_options(system="Be brief.", schema='{"type": "object"}', temperature=None)
    request = options.request((Message("u", "user", "Hi"),))
    assert request["messages"][0] == {"role": "system", "content": "Be brief."}
    assert request["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert "temperature" not in request
    assert options_json(options)["schema"] == '{\n  "type": "object"\n}'
    assert with_options(options, system="  ").system is None


def test_state_for_the_page_has_no_less_than_sign() -> None:
    value = {"a": ["</script>", {"b": "\ue03c1"}], "c": 3, "d": None}
    shown = inert(value)
    assert "<" not in str(shown)
    assert shown == {"a": ["\ue03c1/script>", {"b": "\ue03c01"}], "c": 3, "d": None}
