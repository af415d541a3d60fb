"""Exports, and chats that begin with one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.proxy.engines import KernelMLCEngine
from mlc_widget.widget import ChatWidget

MakeEngine = Callable[..., KernelMLCEngine]
DEADLINE = 30.0
SAID = [
    {"role": "system", "content": "Be *kind*"},
    {"role": "user", "content": "Write `a<b>`"},
    {"role": "assistant", "content": "```py\na < b\n```"},
]


@pytest.fixture
def chat(make_engine: MakeEngine) -> Any:
    chat = ChatWidget(make_engine(echo=True), history=SAID)
    yield chat
    chat.close()


def test_a_chat_goes_on_from_its_history(chat: ChatWidget) -> None:
    assert chat.system == "Be *kind*"
    assert list(chat.messages) == SAID[1:]
    shown = chat.get_state("_chat")["_chat"]["messages"]
    assert [m["role"] for m in shown] == ["user", "assistant"]
    answer = chat.send("And then?").result(DEADLINE)["content"]
    assert "Be *kind*" in answer
    assert "a < b" in answer
    assert len(chat.messages) == 4


def test_json_is_read_back_as_it_was_written(
    chat: ChatWidget, make_engine: MakeEngine, tmp_path: Path
) -> None:
    chat.send("More").result(DEADLINE)
    path = tmp_path / "chat.json"
    text = chat.export("json", path)
    assert path.read_text() == text
    for history in (text, json.loads(text), path, str(path), json.loads(text)["messages"]):
        again = ChatWidget(make_engine(echo=True), history=history)
        assert again.messages == chat.messages
        assert again.system == "Be *kind*"
        again.close()


def test_a_notebook_is_valid_and_can_be_gone_on_from(
    chat: ChatWidget, make_engine: MakeEngine, tmp_path: Path
) -> None:
    path = tmp_path / "chat.ipynb"
    notebook = nbformat.reads(chat.export("ipynb", path), as_version=4)
    nbformat.validate(notebook)
    assert [cell.cell_type for cell in notebook.cells] == ["markdown", "markdown"]
    assert "a < b" in notebook.cells[1].source
    again = ChatWidget(make_engine(echo=True), history=path)
    assert again.messages == chat.messages
    again.close()


def test_markdown_says_who_said_what(chat: ChatWidget) -> None:
    text = chat.export("md")
    assert text.startswith("**System:** Be \\*kind\\*")
    assert "> Write a&lt;b>" in text
    assert "```py\na < b\n```" in text
    assert chat.export() == text


@pytest.mark.parametrize(
    ("history", "complaint"),
    [
        ("nowhere.json", "nowhere.json.*no such file"),
        ("{", "not JSON"),
        ('{"cells": []}', "shows no chat"),
        (7, "history = 7"),
        ([{"role": "king", "content": "x"}], r"history\[0\].role"),
        ([{"role": "user"}], r"history\[0\].content"),
    ],
)
def test_what_is_no_history_is_explained(
    make_engine: MakeEngine, history: Any, complaint: str
) -> None:
    with pytest.raises(BadRequestError, match=complaint):
        ChatWidget(make_engine(echo=True), history=history)


def test_formats_and_paths_that_cannot_be_are_errors(chat: ChatWidget, tmp_path: Path) -> None:
    with pytest.raises(BadRequestError, match="md, json, ipynb"):
        chat.export("pdf")
    with pytest.raises(OSError, match="nowhere"):
        chat.export("md", tmp_path / "nowhere" / "chat.md")


def double(x: int) -> int:
    """Twice a number."""
    return 2 * x


@pytest.mark.parametrize("name", ["chat.json", "chat.ipynb"])
def test_a_chat_is_reopened_from_its_file_with_its_settings(
    make_engine: MakeEngine, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    settings: dict[str, Any] = {
        "temperature": 0.25,
        "top_k": 7,
        "seed": 3,
        "sampling": {"typical_p": 0.5},
        "schema": {"type": "object", "properties": {"x": {"type": "integer"}}},
    }
    first = ChatWidget(make_engine(echo=True), history=SAID, **settings)
    first.export(path.suffix[1:], path)
    first.close()
    again = ChatWidget.load(path, make_engine(echo=True), top_k=9, tools=[double])
    try:
        assert list(again.messages) == SAID[1:]
        assert again.system == "Be *kind*"
        for setting, value in (settings | {"top_k": 9}).items():
            assert getattr(again, setting) == value
        assert again.tools
    finally:
        again.close()


def test_a_chat_is_reopened_from_the_notebook_that_shows_it(
    chat: ChatWidget, make_engine: MakeEngine, tmp_path: Path
) -> None:
    output = nbformat.v4.new_output("display_data", data=chat._transcript_bundle())
    cell = nbformat.v4.new_code_cell("chat", outputs=[output])
    path = tmp_path / "notebook.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    again = ChatWidget.load(str(path), make_engine(echo=True))
    assert again.messages == chat.messages
    again.close()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no such file"),
        (b"\xff\xfe", "utf-8"),
        (b"[" * 100_000, "not JSON"),
        (b"7", "no conversation"),
        (b'{"cells": [7]}', "not a notebook"),
        (b'{"cells": [{"outputs": [7]}]}', "not a notebook"),
        (b'{"cells": [], "metadata": 7}', "not a notebook"),
        (b'{"messages": [], "settings": {"temperature": 99}}', "temperature = 99"),
        (b'{"messages": [7]}', r"history\[0\]"),
        (b'{"settings": {"schema": "%s"}}' % (b"[" * 100_000), "schema.*not valid JSON"),
    ],
)
def test_files_that_hold_no_chat_are_refused(
    make_engine: MakeEngine, tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    path = tmp_path / "chat.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadRequestError, match=complaint):
        ChatWidget.load(path, make_engine(echo=True))


@pytest.mark.parametrize(
    "path",
    ["a\0b", Path("a\0b"), "~nobody-has-this-name/a", "x" * 100_000, "\ud800", ".", 7, None, b"a"],
    ids=lambda path: ascii(path)[:20],
)
def test_what_cannot_be_a_path_is_one_clear_error(
    chat: ChatWidget, make_engine: MakeEngine, path: Any
) -> None:
    with pytest.raises(BadRequestError, match="history = ") as caught:
        ChatWidget.load(path, make_engine(echo=True))
    assert len(str(caught.value)) < 500
    if isinstance(path, str | Path) and "\0" in str(path):
        with pytest.raises(BadRequestError, match="path = "):
            chat.export("md", path)


@pytest.mark.parametrize(
    ("settings", "given", "system"),
    [
        ({}, {}, "Be *kind*"),
        ({"system": "From the settings"}, {}, "From the settings"),
        ({"system": "From the settings"}, {"system": "Given"}, "Given"),
    ],
)
def test_of_several_system_prompts_the_nearest_counts(
    make_engine: MakeEngine, tmp_path: Path, settings: Any, given: Any, system: str
) -> None:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps({"messages": SAID, "settings": settings}))
    again = ChatWidget.load(path, make_engine(echo=True), **given)
    assert again.system == system
    again.close()


def test_settings_of_a_file_that_nobody_knows_are_left_out(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps({"messages": SAID, "settings": {"nonsense": 1, "tools": ["x"]}}))
    again = ChatWidget.load(path, make_engine(echo=True))
    assert not again.tools
    again.close()
