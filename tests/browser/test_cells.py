"""Code of replies becomes cells, and a model that cannot be loaded changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from .chat import CHAT, Chat, create, start_chat
from .lab import Notebook

OpenNotebook = Callable[..., Notebook]

FIRST = "found = 6 * 7\nprint('answer', found)"
CODE = f"Try this:\n\n```python\n{FIRST}\n```\n\nOr:\n\n```\nfound = 1\n```\n"


def sources(notebook: Notebook) -> list[str]:
    found: list[str] = notebook.page.evaluate(
        "window.jupyterapp.shell.currentWidget.model.sharedModel.cells.map((cell) => cell.source)"
    )
    return found


def block(chat: Chat, number: int) -> Locator:
    return chat.replies.last.locator(".mlcw-code").nth(number)


@pytest.mark.parametrize(
    "classic",
    [pytest.param(False, id="lab"), pytest.param(True, id="notebook", marks=pytest.mark.soak)],
)
def test_code_of_a_reply_becomes_cells_and_a_bad_model_changes_nothing(
    open_notebook: OpenNotebook, model_folder: Path, tmp_path: Path, classic: bool
) -> None:
    notebook = open_notebook(
        [create(model_folder, text=CODE), "table = {'Rome': 31}", CHAT, "# last"], classic=classic
    )
    notebook.run(0)
    notebook.expect_done(0)
    chat = start_chat(notebook, 2)

    # A name that is nearly right: the model stays, the name stays in the box, and it is said why.
    load_bar = notebook.output(0).locator(".mlcw-load")
    name = chat.root.locator(".mlcw-name").inner_text()
    chat.root.get_by_role("button", name="Settings").click()
    picker = chat.root.get_by_role("combobox", name="Model")
    picker.fill("dem")
    expect(chat.root.get_by_role("option").first).to_contain_text("demo")
    picker.fill("demmo")
    picker.press("Enter")
    expect(chat.root.get_by_role("alert").first).to_contain_text("Did you mean 'demo'?")
    expect(picker).to_have_value("demmo")
    expect(chat.root.locator(".mlcw-name")).to_have_text(name)
    expect(load_bar).to_have_attribute("data-mlcw-state", "ready")
    chat.root.get_by_role("button", name="Settings").click()
    chat.root.get_by_role("button", name="Dismiss").click()

    # A variable of the notebook: its name is completed, and the model reads its value.
    notebook.run(1)
    notebook.expect_done(1)
    chat.input.press_sequentially("How warm is {ta")
    expect(chat.root.get_by_role("option")).to_have_text("tabledict")
    chat.input.press("Tab")
    expect(chat.input).to_have_value("How warm is {table}")
    chat.input.press("Enter")
    sent = chat.root.locator(".mlcw-user .mlcw-sent")
    expect(sent.locator("summary")).to_contain_text("{table}")
    sent.locator("summary").click()
    expect(sent).to_contain_text("{'Rome': 31}")
    expect(chat.replies.last.locator(".mlcw-code")).to_have_count(2)

    # A cell that is dragged onto the chat by its prompt is attached, and stays where it is.
    before = sources(notebook)
    start, end = notebook.prompt(1).bounding_box(), chat.input.bounding_box()
    assert start
    assert end
    mouse = notebook.page.mouse
    mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    mouse.down()
    mouse.move(end["x"] + 40, end["y"] + 10, steps=8)
    mouse.up()
    attached = chat.root.get_by_role("list", name="Attachments")
    expect(attached).to_contain_text("Cell20 characters")
    assert sources(notebook) == before
    attached.get_by_role("button", name="Remove Cell").click()

    block(chat, 0).get_by_role("button", name="Insert").click()
    expect(block(chat, 0).get_by_role("button", name="Inserted")).to_be_visible()
    block(chat, 1).get_by_role("button", name="Replace").click()
    expect(block(chat, 1).get_by_role("button", name="Replaced")).to_be_visible()
    assert sources(notebook)[1:] == ["found = 1", CHAT, FIRST, "# last"]

    block(chat, 0).get_by_role("button", name=re.compile("^Run")).click()
    question = block(chat, 0).get_by_role("group", name="Run the model's code")
    expect(question).to_contain_text("read it first")
    question.get_by_role("button", name="Always").click()
    expect(notebook.output(4)).to_contain_text("answer 42")
    assert sources(notebook)[2:] == [CHAT, FIRST, FIRST, "# last"]
    block(chat, 1).get_by_role("button", name=re.compile("^Run")).press("Enter")  # not asked again
    notebook.expect_done(5)
    assert sources(notebook)[2:] == [CHAT, FIRST, FIRST, "found = 1", "# last"]

    # The page stays open when the kernel is shut down, and must not look as if it were still there.
    notebook.close()
    expect(chat.root.locator(".mlcw-state")).to_have_text("No kernel")
    expect(chat.input).to_be_disabled()
