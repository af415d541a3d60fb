"""A chat that its saved notebook holds: what stands there without a kernel, and how it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.proxy.engines import KernelMLCEngine
from mlc_widget.widget import ChatWidget
from mlc_widget.widget.saved_chat import SavedChat
from mlc_widget.widget.stand_in import stand_in
from mlc_widget.widget.transcript import CHAT_MIME

MakeEngine = Callable[..., KernelMLCEngine]
SAID = [
    {"role": "user", "content": "Write `a<b>`"},
    {"role": "assistant", "content": "```py\na < b\n```"},
]


def cell(cell_id: str, *chats: Any) -> dict[str, Any]:
    outputs = [{"output_type": "display_data", "data": {CHAT_MIME: chat}} for chat in chats]
    return {"cell_type": "code", "id": cell_id, "outputs": outputs}


def said(*messages: dict[str, str]) -> dict[str, Any]:
    return {"version": 1, "model": "m", "messages": list(messages)}


class Found(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def reopen(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., ChatWidget]:
    """A chat that is shown by cell "b" of a notebook whose file has this content."""
    chats = []

    def reopen(content: object, **options: Any) -> ChatWidget:
        path = tmp_path / "saved.ipynb"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        monkeypatch.setenv("JPY_SESSION_NAME", str(path))
        request = {"metadata": {"cellId": "b"}}
        kernel = SimpleNamespace(get_parent=lambda channel: request)
        chat = ChatWidget(make_engine(echo=True), **options)
        chats.append(chat)
        with monkeypatch.context() as patch:
            patch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=kernel))
            chat._saved.look()
        return chat

    yield reopen
    for chat in chats:
        chat.close()


def intent(chat: ChatWidget, kind: str, **fields: Any) -> str | None:
    """Have the page's intent carried out; returns the refusal."""

    async def take() -> str | None:
        try:
            chat._desk._carry_out({"kind": kind, **fields})
        except BadRequestError as error:
            return error.message
        return None

    return chat._link.submit(take()).result()


def offered(chat: ChatWidget) -> int:
    return int(chat.get_state("_chat")["_chat"]["saved"])


def test_the_chat_of_the_same_cell_is_offered_and_goes_on(reopen: Any) -> None:
    system = {"role": "system", "content": "Be *kind*"}
    notebook = {"cells": [cell("a", said(*SAID, *SAID)), cell("b", said(system, *SAID))]}
    chat = reopen(notebook)
    assert chat.messages == ()
    assert offered(chat) == 2
    assert intent(chat, "take_up") is None
    assert list(chat.messages) == SAID
    assert offered(chat) == 0
    answer = chat.send("And then?").result(30)["content"]
    assert "Be *kind*" in answer
    assert "a < b" in answer
    assert "no conversation" in (intent(chat, "take_up") or "")
    assert len(chat.messages) == 4


def test_the_last_chat_of_several_counts(reopen: Any) -> None:
    chats = (said(*SAID), said(SAID[0]), said(), said({"role": "nobody", "content": "x"}))
    assert offered(reopen({"cells": [cell("b", *chats)]})) == 1


def test_a_chat_that_has_begun_is_left_alone(reopen: Any) -> None:
    saved = {"cells": [cell("b", said(*SAID, *SAID))]}
    assert offered(reopen(saved, history=SAID)) == 0
    chat = reopen(saved, system="Mine")
    assert offered(chat) == 4
    intent(chat, "take_up")
    assert chat.system == "Mine"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not JSON",
        "[]",
        "{}",
        '{"cells": 3}',
        '{"cells": [3, null]}',
        json.dumps({"cells": [{"id": "b"}]}),
        json.dumps({"cells": [{"id": "b", "outputs": [{"data": []}]}]}),
        json.dumps({"cells": [{"id": "b", "outputs": 3}]}),
        json.dumps({"cells": [cell("b", [])]}),
        json.dumps({"cells": [cell("b", {"messages": 7})]}),
        json.dumps({"cells": [cell("b", {"messages": [{"role": "user", "content": 1}]})]}),
        json.dumps({"cells": [cell("a", said(*SAID))]}),
        "[" * 100_000,
    ],
)
def test_any_other_file_offers_nothing(reopen: Any, content: str) -> None:
    chat = reopen(content)
    assert offered(chat) == 0
    assert intent(chat, "take_up")
    assert chat.messages == ()


def adopted(chat: ChatWidget) -> ChatWidget:
    """The chat after it took the settings of its notebook, as when it is shown."""

    async def take() -> None:
        chat._settings.adopt(chat._saved.settings)

    chat._link.submit(take()).result()
    return chat


def with_settings(settings: Any) -> dict[str, Any]:
    return {"cells": [cell("b", {**said(), "settings": settings})]}


def test_settings_that_were_changed_in_the_page_come_back(reopen: Any) -> None:
    before = reopen({"cells": []}, system="Mine", seed=3)
    for name, value in {"temperature": 0.7, "schema": {"type": "object"}, "seed": 4}.items():
        assert intent(before, "set", name=name, value=value) is None
    assert intent(before, "set", name="top_p", value=0.5) is None
    assert intent(before, "set", name="top_p", value=None) is None
    assert "between 0 and 2" in (intent(before, "set", name="temperature", value=9) or "")
    for name in ("tools", "model", None, ["system"]):
        assert "no such setting" in (intent(before, "set", name=name, value="x") or "")
    bundle = before._transcript_bundle()[CHAT_MIME]
    kept = json.loads(json.dumps(bundle))["settings"]
    assert kept == {"temperature": 0.7, "seed": 4, "schema": {"type": "object"}}

    # What the code gives counts, and what is undone is not kept.
    after = adopted(reopen(with_settings(kept), seed=3))
    assert (after._session.options.temperature, after._session.options.seed) == (0.7, 3)
    assert after.get_state("_options")["_options"]["changed"] == ["temperature", "schema"]
    assert intent(after, "reset") is None
    assert after._session.options.temperature is None
    assert after._transcript_bundle()[CHAT_MIME]["settings"] == {}


@pytest.mark.parametrize(
    "settings",
    [3, "temperature", [["temperature", 1]], {"temperature": 9, "nope": 1, "tools": ["x"]}, None],
)
def test_bad_settings_in_a_notebook_are_left_out(reopen: Any, settings: Any) -> None:
    chat = adopted(reopen(with_settings(settings)))
    assert chat.get_state("_options")["_options"]["changed"] == []
    assert chat._session.options.tools is None


@pytest.mark.parametrize(
    "settings",
    [
        {"schema": "[" * 100_000},
        {"schema": '{"a":' * 100_000},
        {"system": "\ud800"},
        {"seed": 1e999},
    ],
)
def test_a_bad_setting_in_a_notebook_does_not_take_the_others_with_it(
    reopen: Any, settings: Any
) -> None:
    pinned = {"Short": "Be brief."}
    chat = adopted(reopen(with_settings({**settings, "system_prompts": pinned})))
    assert chat.get_state("_options")["_options"]["changed"] == ["system_prompts"]


def test_without_a_notebook_nothing_is_offered(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chat = ChatWidget(make_engine(echo=True))
    for name in ("", "relative.ipynb", str(tmp_path / "missing.ipynb"), str(tmp_path)):
        monkeypatch.setenv("JPY_SESSION_NAME", name)
        assert not SavedChat(chat._session).look()
    with pytest.raises(BadRequestError, match="no conversation"):
        SavedChat(chat._session).take_up()
    chat.close()


def test_what_stands_in_is_inert_text_wherever_styles_are_removed() -> None:
    html = stand_in("Run <b>this</b> & that")["text/html"]
    assert "<span>Run &lt;b&gt;this&lt;/b&gt; &amp; that</span>" in html
    found = Found()
    found.feed(html)
    assert found.tags == {"link", "div", "span", "button"}
    # The words of the button come from the style sheet, which is no text either.
    assert found.text.strip() == "Run <b>this</b> & that"
    assert "hidden" in found.attributes
