"""Questions from the page: variables of the notebook, and attachments."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import pandas as pd
import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.widget import notebook_variables, questions
from mlc_widget.widget.chat_request import ChatOptions, openai_message
from mlc_widget.widget.prompt import fill_in_known
from mlc_widget.widget.questions import MAX_CHARACTERS, read_attachments, read_question
from mlc_widget.widget.state import ChatState, Message

FRAME = pd.DataFrame({"city": ["Oslo", "Rome"], "degrees": [12, 31]})


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The notebook's variables."""
    known: dict[str, Any] = {"df": FRAME, "x": 3, "text": "a {x} b"}
    monkeypatch.setattr(notebook_variables, "namespace", lambda: known)
    return known


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("Is {x} odd?", "Is 3 odd?"),
        ("{x}, ({x}) and '{x:03d}'", "3, (3) and '003'"),
        ("{{x}} stays", "{x} stays"),
        ("> of {x}\n\nIs {x} > 2?", "> of {x}\n\nIs 3 > 2?"),
        ("Show {text}", "Show a {x} b"),  # what is filled in is not filled in again
        *(
            (kept, kept)
            for kept in (
                r"\frac{x}{y} and \mathbb{x}",
                "x^{x} and x_{x} and ${x}",
                "Why is `f'{x}'` so?",
                "Fix this:\n```python\nprint(f'{x}')\n",
                '{"x": {"y": 1}} and {unknown} and {{unknown}} and {}',
                "dict {{x}: 1}",
                "a {x y} b",
                "> a quotation of {x}\n   > and {text}",
                "````\na ``` b\n{x}\n````",
            )
        ),
    ],
)
def test_only_known_variables_outside_of_code_are_filled_in(
    variables: dict[str, Any], text: str, filled: str
) -> None:
    assert fill_in_known(text, variables).text == filled


def test_the_model_reads_the_value_and_the_user_what_was_written(
    variables: dict[str, Any],
) -> None:
    question = asyncio.run(read_question("Describe {df} and {df.columns[0]}"))
    assert question.text == "Describe {df} and {df.columns[0]}"
    assert "Data frame: 2 rows, 2 columns: city" in question.prompt
    assert question.prompt.endswith(" and city")
    assert [item.name for item in question.attachments] == ["df", "df.columns[0]"]


@pytest.mark.parametrize("bad", ["{df.nothing}", "{x[3]}", "{x:s}"])
def test_what_a_variable_does_not_have_is_refused_before_anything_is_sent(
    variables: dict[str, Any], bad: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        asyncio.run(read_question(f"Describe {bad}"))
    assert bad in str(caught.value)


def test_a_variable_that_takes_too_long_is_an_error_and_the_loop_goes_on(
    variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "_PATIENCE_S", 0.05)
    released = False

    class Slow:
        def __repr__(self) -> str:
            while not released:
                time.sleep(0.001)
            return "slow"

    variables["slow"] = Slow()

    async def ask() -> None:
        nonlocal released
        with pytest.raises(BadRequestError, match="took more than"):
            await read_question("Describe {slow}")
        released = True

    asyncio.run(ask())


def test_attachments_come_before_the_text_in_fences_that_nothing_in_them_ends(
    variables: dict[str, Any],
) -> None:
    files = read_attachments(
        [
            {"name": "a\nb\u202e.md", "text": "```\nIgnore this. {x}\n````"},
            {"name": "", "text": "x"},
        ]
    )
    assert [item.name for item in files] == ["a b .md", "text"]
    question = asyncio.run(read_question("What is {x} here?", files))
    assert question.prompt == (
        "a b .md:\n`````\n```\nIgnore this. {x}\n````\n`````\n\ntext:\n```\nx\n```\n\n"
        "What is 3 here?"
    )
    alone = asyncio.run(read_question(" ", files[1:]))
    assert alone.prompt == "text:\n```\nx\n```"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("text", "must be a list"),
        ([{"name": "a", "text": "x"}] * 21, "at most 20"),
        ([{"name": "a", "text": "x" * (MAX_CHARACTERS // 2 + 1)}] * 2, "200,002 characters"),
        ([{"name": "a"}], r"attachments\[0\]"),
        ([{"name": "a", "text": "x"}, "b"], r"attachments\[1\]"),
        ([{"name": 3, "text": "x"}], r"attachments\[0\]"),
        ([{"name": "a", "text": ""}], r"attachments\[0\]"),
    ],
)
def test_bad_attachments_are_refused(given: Any, complaint: str) -> None:
    with pytest.raises(BadRequestError, match=complaint):
        read_attachments(given)


def test_an_empty_message_needs_an_attachment() -> None:
    with pytest.raises(BadRequestError, match="write a message first"):
        asyncio.run(read_question("  "))


def test_the_page_gets_the_beginning_and_the_model_and_the_export_get_all() -> None:
    files = read_attachments([{"name": "long.txt", "text": "y" * 50_000}])
    question = asyncio.run(read_question("Sum up", files))
    message = Message("u", "user", question.text, prompt=question.prompt, attachments=files)
    shown = message.to_json()
    assert shown["text"] == "Sum up"
    assert shown["attachments"] == [
        {"name": "long.txt", "text": "y" * 2_000, "length": 50_000, "variable": False}
    ]
    request = ChatOptions().request(ChatState().put(message, head="u").path())
    assert len(request["messages"][0]["content"]) > 50_000
    assert openai_message(message)["content"].endswith("Sum up")


def in_kernel(monkeypatch: pytest.MonkeyPatch, variables: dict[str, Any]) -> None:
    shell = type("Shell", (), {"kernel": object(), "user_ns": variables})()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)


def test_the_notebook_s_variables_have_frames_and_the_last_error_but_not_the_shell_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "last_exc", None, raising=False)
    monkeypatch.setattr(sys, "last_value", ValueError("no"), raising=False)
    in_kernel(monkeypatch, {"In": [], "_i": "", "sys": sys, "old": 1, "df": FRAME, "not a": 1})
    assert notebook_variables.names() == [
        {"name": "df", "kind": "frame", "type": "DataFrame", "shape": (2, 2)},
        {"name": "old", "kind": "", "type": "int", "shape": None},
        {"name": "last_error", "kind": "error", "type": "ValueError", "shape": None},
    ]
    in_kernel(monkeypatch, {f"v{i}": i for i in range(5_000)})
    assert len(notebook_variables.names()) == 300


@pytest.mark.parametrize("where", ["voila", "no kernel"])
def test_visitors_of_an_app_cannot_read_its_variables(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    in_kernel(monkeypatch, {"API_KEY": "secret"})
    if where == "voila":
        monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.8")
    else:
        monkeypatch.setattr("IPython.get_ipython", lambda: None)
    assert notebook_variables.names() == []
    question = asyncio.run(read_question("Say {API_KEY}"))
    assert (question.prompt, question.attachments) == ("", ())
