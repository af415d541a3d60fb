"""The title of a chat: where it comes from, what becomes of it, and what it may be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.proxy.engines import KernelMLCEngine
from mlc_widget.widget import ChatWidget
from mlc_widget.widget import title as titles
from mlc_widget.widget.message_tree import MessageTree
from mlc_widget.widget.state import Attachment, Message
from mlc_widget.widget.title import MAX_TITLE, check_title, first_words
from mlc_widget.widget.transcript import CHAT_MIME

from .test_chat import DEADLINE, Page

MakeEngine = Callable[..., KernelMLCEngine]
OpenPage = Callable[..., Page]
UNDRAWN = [
    ("\u200fa\u061cb\ufeff", "ab"),
    ("a \u200b b", "a b"),
    ("\u200da\u200d \u200cb\u200c\u200cc", "a bc"),
    *(
        (text, "")
        for text in ("\u200f", "\ufeff\u200b", "\u200d", "\u3164", "\u0301", "\U000e0041")
    ),
]
HOSTILE = '</script><img src=x onerror="alert(1)"> [a](javascript:x) # *b*'


@pytest.fixture
def open_page(make_engine: MakeEngine) -> Iterator[OpenPage]:
    pages: list[Page] = []

    def open_(**options: Any) -> Page:
        pages.append(Page(make_engine(echo=True), **options))
        return pages[-1]

    yield open_
    for page in pages:
        page.chat.close()


def ask(tree: MessageTree, name: str, parent: str | None = None, **more: Any) -> None:
    question = Message(name, "user", more.pop("text", name), parent=parent, **more)
    tree.add_turn([question], Message(name.upper(), "assistant", "Yes", parent=name), ())


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("Why is the sky blue?", "Why is the sky blue?"),
        ("\n\n  Fix\tthis \nand that", "Fix this"),
        (
            "What would the author of this long sentence have said",
            "What would the author of this long sentence have…",
        ),
        ("x" * 300, "x" * 48 + "…"),
        ("日" * 60, "日" * 48 + "…"),
        ("a\u202eb\x00c\ud800d", "abcd"),
        ("👩‍👩‍👧 family", "👩‍👩‍👧 family"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("🏳️\u200d🌈 🙂\u200d↔️", "🏳️\u200d🌈 🙂\u200d↔️"),
        ("\u200b\nhello", "hello"),
        ("\u3164 \u2800\n\ufe0f\n\u00adhello", "hello"),
        ("\u200d\n\u2060\u2061\n", ""),
        (" \n\t", ""),
    ],
)
def test_a_question_gives_its_first_words(question: str, title: str) -> None:
    assert first_words(question) == title


@pytest.mark.parametrize(
    ("given", "title"),
    [(None, ""), ("", ""), (" a\r\n b ", "a b"), ("<b>", "<b>"), ("\u2066x", "x"), *UNDRAWN],
)
def test_a_title_is_one_line_of_text(given: Any, title: str) -> None:
    assert check_title(given) == title


@pytest.mark.parametrize("given", [7, ["a"], {"a": 1}, True, b"a", "x" * (MAX_TITLE + 1)])
def test_what_is_no_title_is_refused(given: Any, make_engine: MakeEngine) -> None:
    with pytest.raises(BadRequestError, match="title"):
        check_title(given)
    with pytest.raises(BadRequestError, match="title"):
        ChatWidget(make_engine(echo=True), title=given)


def test_a_title_is_refused_for_its_length_before_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(titles, "one_line", pytest.fail)
    with pytest.raises(BadRequestError, match="1,000,000 characters") as caught:
        check_title(" " * 1_000_000)
    assert len(str(caught.value)) < 400


def test_each_conversation_of_a_tree_has_a_title_of_its_own() -> None:
    tree = MessageTree()
    assert tree.state.title == ""
    tree.rename("Before the first message")
    ask(tree, "a")
    assert tree.state.title == "Before the first message"
    tree.begin_anew()
    assert tree.state.title == ""
    ask(tree, "b")
    assert tree.state.title == "b"
    tree.rename("Second")
    ask(tree, "c", "B")
    ask(tree, "d")  # another version of the first message
    assert tree.state.title == "Second"
    tree.select("a")
    assert tree.state.title == "Before the first message"
    tree.rename("")
    assert (tree.state.title, tree.state.given_title) == ("a", "")
    tree.rename("a")  # what it is called anyway
    assert tree.state.given_title == ""
    tree.select("b")
    tree.delete("b")
    tree.delete("d")
    tree.delete("a")
    assert dict(tree.state.titles) == {}


def test_a_question_of_attachments_alone_is_named_after_the_first() -> None:
    tree = MessageTree()
    ask(tree, "a", text="", attachments=(Attachment("log.txt", "x"), Attachment("b", "y")))
    assert tree.state.title == "log.txt"


def test_the_page_renames_and_exports_have_the_title(open_page: OpenPage) -> None:
    page = open_page()
    chat = page.chat
    chat.send("Why is the sky blue?").result(DEADLINE)
    shown = chat.get_state("_chat")["_chat"]
    assert shown["title"] == chat.title == "Why is the sky blue?"
    assert not chat.export().startswith("#"), "it would only repeat the first message"
    assert "title" not in json.loads(chat.export("json"))

    page.intent("a", "rename", title=HOSTILE)
    assert page.wait_for_ack("a")["error"] is None
    page.intent("b", "rename", title=["x"])
    assert "title" in page.wait_for_ack("b")["error"]
    assert chat.title == HOSTILE
    first = chat.export().partition("\n")[0]
    assert first.startswith("# ")
    assert "<" not in first
    assert "[a](" not in first
    assert json.loads(chat.export("json"))["title"] == HOSTILE
    notebook = json.loads(chat.export("ipynb"))
    assert notebook["cells"][0]["source"][0].startswith("# ")
    saved = chat._transcript_bundle()
    assert saved["text/markdown"].startswith("**")
    assert "<" not in json.dumps(chat.get_state("_chat")["_chat"])

    for history in (chat.export("json"), notebook["metadata"][CHAT_MIME], saved[CHAT_MIME]):
        assert open_page(history=history).chat.title == HOSTILE
    assert open_page(history=saved[CHAT_MIME], title="Mine").chat.title == "Mine"
    assert open_page(history=saved[CHAT_MIME], title="").chat.title == "Why is the sky blue?"


def test_a_title_is_set_in_python(open_page: OpenPage) -> None:
    chat = open_page(title="Weather").chat
    assert chat.title == "Weather"
    chat.send("Rain?").result(DEADLINE)
    assert chat.title == "Weather"
    with pytest.raises(BadRequestError, match="title"):
        chat.title = 5  # type: ignore[assignment]
    chat.title = None  # type: ignore[assignment]
    assert chat.title == "Rain?"
