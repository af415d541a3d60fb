"""A conversation in JupyterLab and Notebook 7: editing, branches, stopping, saving."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import ElementHandle, expect

from ..widget.script_folder import write_script_folder
from .chat import (
    CHAT,
    LONG,
    Chat,
    create,
    expect_growing,
    press,
    start_chat,
    tool,
    wait_for_saved,
)
from .lab import DEADLINE_MS, BusyCell, Lab, Notebook

OpenNotebook = Callable[..., Notebook]
TINY = Path(__file__).parent.parent / "mcp_client" / "tiny_server.py"
FINE = "Fine, **thanks**"
ONE = "How are you?\nToday?"

COMPARE = (
    "from mlc_widget import CompareWidget\n"
    "CompareWidget(ChatWidget(engine), ChatWidget(engine, temperature=0))"
)


def bodies(chat: Chat) -> list[str]:
    """The texts of the messages, in order."""
    return [text.strip() for text in chat.root.locator(".mlcw-body").all_inner_texts()]


def expect_bodies(chat: Chat, *texts: str) -> None:
    expect(chat.root.locator(".mlcw-body")).to_have_text(list(texts), timeout=DEADLINE_MS)


def test_messages_are_edited_deleted_saved_and_kept_in_branches_in_all_views(
    open_notebook: OpenNotebook, lab: Lab, model_folder: Path
) -> None:
    settings = "print(chat._session.options.temperature, chat._session.options.system)"
    magic = ("%load_ext mlc_widget", "%%chat\nHow are you?")
    notebook = open_notebook(
        [create(model_folder, text=f"{FINE}."), CHAT, "chat", settings, COMPARE, *magic],
        height=1400,
    )
    notebook.run(0)
    notebook.expect_done(0)
    chat = start_chat(notebook)
    node = chat.root.element_handle()
    notebook.run(2)
    notebook.expect_done(2)
    other = Chat(notebook.output(2))

    keys_are_the_chat_s_own(notebook, chat)
    expect(chat.replies.last.locator(".mlcw-facts")).to_contain_text("out · context")
    the_file_has_the_transcript_and_the_page_shows_it_once(lab, notebook, node)
    chat.ask("Two")
    expect_bodies(other, ONE, "Fine, thanks.", "Two", "Fine, thanks.")

    # Edit the first message in the one view; go back in the other.
    first = chat.root.locator(".mlcw-user").first
    first.hover()
    tool(first, "Edit message").click()
    editor = chat.root.get_by_role("textbox", name="Edit message")
    editor.fill("Another one")
    editor.press("Enter")
    for view in (chat, other):
        expect_bodies(view, "Another one", "Fine, thanks.")
    there = other.root.locator(".mlcw-user").first
    expect(there.get_by_role("group", name="Versions")).to_contain_text("2/2")
    tool(there, "Previous version").click()
    for view in (chat, other):
        expect_bodies(view, ONE, "Fine, thanks.", "Two", "Fine, thanks.")
    tool(there, "Next version").click()
    expect_bodies(chat, "Another one", "Fine, thanks.")

    # Regenerate, then delete what was made.
    tool(chat.replies.last, "Regenerate").click()
    expect(chat.replies.last.get_by_role("group", name="Versions")).to_contain_text("2/2")
    expect(chat.replies.last).to_have_attribute("data-mlcw-status", "done")
    tool(chat.replies.last, "Delete").click()
    tool(chat.replies.last, "Delete?").click()
    expect(chat.replies.last.get_by_role("group", name="Versions")).to_be_hidden()
    expect_bodies(other, "Another one", "Fine, thanks.")

    # The kernel's side checks the settings, and has the last word.
    chat.root.get_by_role("button", name="Settings").click()
    chat.root.get_by_label("Temperature").fill("7")
    chat.root.get_by_label("System prompt").fill("Be brief.")
    error = chat.root.get_by_role("alert").filter(has_text="temperature = 7")
    expect(error).to_be_visible()
    chat.root.get_by_label("Temperature").fill("0.5")
    chat.root.get_by_label("Seed").focus()
    expect(error).to_be_hidden()
    chat.root.get_by_label("JSON schema").fill("{nonsense")
    chat.root.get_by_label("Seed").focus()
    expect(chat.root.get_by_role("alert").filter(has_text="not valid JSON")).to_be_visible()
    notebook.run(3)
    notebook.expect_done(3)
    expect(notebook.output(3)).to_contain_text("0.5 Be brief.")
    other.root.get_by_role("button", name="Settings").click()
    expect(other.root.get_by_label("Temperature")).to_have_value("0.5")

    # Two chats side by side, in the page and among the outputs.
    notebook.run(4)
    notebook.expect_done(4)
    compare = notebook.output(4).locator(".mlcw-compare")
    box = compare.get_by_role("textbox", name="Message")
    box.fill("Three")
    box.press("Enter")
    answers = compare.locator(".mlcw-assistant .mlcw-body")
    expect(answers).to_have_text(["Fine, thanks."] * 2, timeout=DEADLINE_MS)
    expect(compare.locator(".mlcw-assistant .mlcw-facts")).to_have_text([re.compile("out")] * 2)
    transcripts = notebook.output(4).locator('[data-mime-type="text/markdown"]')
    expect(transcripts).to_have_count(2)
    for transcript in transcripts.all():
        expect(transcript).to_be_hidden()
    compare.get_by_role("button", name="Continue with B").click()
    expect(compare.get_by_role("button", name="Show both again")).to_be_visible()
    expect(answers.first).to_be_hidden()

    # From within the chat, in both views, until one answer is kept as another version.
    chat.root.get_by_role("button", name="Compare…").click()
    form = chat.root.get_by_role("group", name="Compare with")
    temperature = form.get_by_role("spinbutton", name="Temperature")
    expect(temperature).to_have_value("0.5")
    temperature.fill("7")
    temperature.press("Enter")
    expect(form.get_by_role("alert")).to_contain_text("temperature = 7")
    temperature.fill("1")
    temperature.press("Enter")
    expect(notebook.output(2).locator(".mlcw-compare")).to_be_visible()
    expect(other.root.locator(".mlcw-input")).to_be_hidden()
    compared = notebook.output(1).locator(".mlcw-compare")
    expect(compared.locator(".mlcw-column-label")).to_have_text(
        ["Temperature: 0.5", "Temperature: 1"]
    )
    expect(compared.get_by_role("textbox", name="Message")).to_be_focused()
    compared.get_by_role("button", name="Keep B").click()
    expect(compared).to_have_count(0)
    expect_bodies(other, "Another one", "Fine, thanks.")
    expect(other.replies.last.get_by_role("group", name="Versions")).to_contain_text("2/2")
    expect(chat.root.get_by_role("textbox", name="Message")).to_be_focused()

    a_magic_s_cell_keeps_its_reply(lab, notebook)


def keys_are_the_chat_s_own(notebook: Notebook, chat: Chat) -> None:
    cells = notebook.page.locator(".jp-Notebook .jp-Cell")
    count = cells.count()
    chat.input.click()
    chat.input.press_sequentially("How are you?")
    chat.input.press("Shift+Enter")
    chat.input.press_sequentially("Today?")
    expect(chat.input).to_have_value(ONE)
    expect(chat.replies).to_have_count(0)
    chat.input.press("Enter")
    expect_bodies(chat, ONE, "Fine, thanks.")
    # The notebook's shortcuts (d d deletes a cell) do not reach through the log or a button.
    chat.root.get_by_role("log").focus()
    for key in "ddabxm":
        notebook.page.keyboard.press(key)
    expect(cells).to_have_count(count)
    for _ in range(20):
        notebook.page.keyboard.press("Tab")
        if chat.input.evaluate("node => node === document.activeElement"):
            break
    expect(chat.input).to_be_focused()


def the_file_has_the_transcript_and_the_page_shows_it_once(
    lab: Lab, notebook: Notebook, node: ElementHandle | None
) -> None:
    saved = wait_for_saved(lab, notebook, 1, "Fine")
    assert "> How are you?" in saved
    assert f"{FINE}." in saved
    # In the page, the chat is there once, and it is the one that was there before.
    transcript = notebook.output(1).locator('[data-mime-type="text/markdown"]')
    shown = notebook.output(1).get_by_text("How are you?")
    expect(shown).to_have_count(2)  # the message, and the chat's title
    expect(transcript).to_be_hidden()
    assert node is not None
    assert node.evaluate("node => node.isConnected")
    # Were the chat not drawn, the transcript would be.
    node.evaluate("node => { window.at = node.parentNode; node.remove(); }")
    expect(transcript.get_by_text("How are you?")).to_be_visible()
    node.evaluate("node => window.at.append(node)")
    expect(transcript).to_be_hidden()


def a_magic_s_cell_keeps_its_reply(lab: Lab, notebook: Notebook) -> None:
    for index in (5, 6):
        notebook.run(index)
        notebook.expect_done(index)
    assert "You" not in wait_for_saved(lab, notebook, 6, f"{FINE}.")
    reply = notebook.output(6).locator(".mlcw-reply")
    expect(reply).to_contain_text("Fine, thanks.")
    expect(reply.get_by_role("button", name="Regenerate")).to_have_count(1)
    expect(reply.get_by_role("button", name="Delete")).to_have_count(0)  # that is its cell's to do
    expect(reply.get_by_role("textbox")).to_be_hidden()


def test_questions_wait_in_line_while_one_is_answered(
    open_notebook: OpenNotebook, model_folder: Path
) -> None:
    notebook = open_notebook([create(model_folder, **LONG), CHAT])
    notebook.run(0)
    notebook.expect_done(0)
    chat = start_chat(notebook)
    chat.ask("First")
    expect_growing(Chat(notebook.output(1)))
    chat.ask("Second")
    chat.ask("Third")
    queued = chat.root.locator('[data-mlcw-status="queued"]')
    expect(queued).to_have_count(2)
    expect(queued.first).to_contain_text("Queued")
    press(queued.first.get_by_role("button", name="Cancel"))
    expect(queued).to_have_count(1)
    chat.input.fill("half a thought")
    chat.stop.click()
    expect(chat.stop).to_be_hidden()
    expect(queued).to_have_count(0)
    expect(chat.input).to_have_value("half a thought")
    # Away from a running reply and back: its branch has gone on meanwhile.
    chat.ask("half a thought")
    expect_growing(chat)
    last = chat.root.locator(".mlcw-user").last
    last.hover()
    press(tool(last, "Edit message"))
    chat.root.get_by_role("textbox", name="Edit message").fill("a whole one")
    press(chat.root.get_by_role("button", name="Send", exact=True).first)
    expect(queued).to_have_count(1)
    press(tool(chat.root.locator(".mlcw-user").last, "Previous version"))
    expect_growing(chat)
    assert set(chat.replies.last.locator(".mlcw-body").inner_text().split()) == {"word"}


def test_in_notebook_7_it_streams_and_stops_while_a_cell_runs(
    open_notebook: OpenNotebook, model_folder: Path, busy: BusyCell
) -> None:
    notebook = open_notebook([create(model_folder, **LONG), CHAT, busy.code], classic=True)
    notebook.run(0)
    notebook.expect_done(0)
    chat = start_chat(notebook)
    notebook.run(2)
    notebook.expect_running(2)
    chat.ask("Go on")
    expect_growing(chat)
    chat.stop.click()
    expect(chat.replies.last.locator(".mlcw-facts")).to_contain_text("Stopped")
    notebook.expect_running(2)
    cells = notebook.page.locator(".jp-Notebook .jp-Cell")
    count = cells.count()
    for part in (chat.root.get_by_role("log"), tool(chat.replies.last, "Copy reply")):
        part.focus()
        for key in "ddab":
            notebook.page.keyboard.press(key)
    expect(cells).to_have_count(count)


# tests/widget/test_mcp.py has the questions and decisions, js/test/approval.test.ts their panel.
@pytest.mark.soak
@pytest.mark.skipif(find_spec("mcp") is None, reason="needs mcp in the notebook's kernel")
def test_calls_of_a_server_are_asked_for_and_made_while_a_cell_runs(
    open_notebook: OpenNotebook, tmp_path: Path, busy: BusyCell
) -> None:
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
    folder = write_script_folder(tmp_path / "tools", tools=True)
    chat_code = f"""import sys
from mlc_widget import mcp
chat = ChatWidget(engine, tools=[mcp([sys.executable, {str(TINY)!r}])])
chat"""
    notebook = open_notebook([create(folder, text=call), chat_code, busy.code])
    notebook.run(0)
    notebook.expect_done(0)
    chat = start_chat(notebook)
    notebook.run(2)
    notebook.expect_running(2)
    chat.ask("2 + 3?")
    question = chat.root.get_by_role("region", name="Allow add?")
    expect(question).to_contain_text("add of the server tiny_server", timeout=DEADLINE_MS)
    expect(question.locator("pre")).to_have_text('{\n  "a": 2,\n  "b": 3\n}')
    question.get_by_role("button", name="Refuse").click()
    results = chat.root.locator(".mlcw-tool-result")
    expect(results).to_have_count(1, timeout=DEADLINE_MS)
    question.get_by_role("button", name="Always in this chat").click()
    expect(results).to_have_count(8, timeout=DEADLINE_MS)  # then the user is asked
    expect(results.nth(0).locator("code")).to_have_text("Error: the user refused this call.")
    expect(results.nth(7).locator("code")).to_have_text("5")
    notebook.expect_running(2)


@pytest.mark.soak
def test_saved_with_its_state_it_is_read_without_a_kernel(
    open_notebook: OpenNotebook, model_folder: Path, lab: Lab
) -> None:
    lab.set("@jupyter-widgets/jupyterlab-manager", "plugin", saveState=True)
    hostile = "</script><script>window.pwned=1</script> **bold** $x^2$ <!--"
    more = "from IPython.display import display\nfor _ in range(4): display(ChatWidget(engine))"
    notebook = open_notebook([create(model_folder, text=hostile), CHAT, more], fresh=True)
    notebook.run(0)
    notebook.expect_done(0)
    chat = start_chat(notebook)
    notebook.run(2)
    expect(notebook.output(2).locator(".mlcw-chat")).to_have_count(4)
    chat.ask("<b>Hi</b></script>")
    expect(chat.replies.last.locator("math")).to_be_visible()
    notebook.save()
    file = next(lab.root.glob("test_saved_with_its_state*.ipynb"))

    def states() -> dict[str, Any]:
        widgets = json.loads(file.read_text("utf-8"))["metadata"].get("widgets", {})
        saved = widgets.get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
        return {
            model: entry["state"]
            for model, entry in saved.items()
            if entry["state"].get("_view") == "chat"
        }

    saved = states().values()
    assert len(saved) == 5
    for state in saved:
        for trait in ("_engine", "_chat", "_live", "_options"):
            assert "<" not in json.dumps(state[trait])
    assert file.stat().st_size < 700_000  # the front end's code is there once
    notebook.close()
    lab.unset("@jupyter-widgets/jupyterlab-manager", "plugin")

    again = open_notebook(file.name)
    chat = Chat(again.output(1))
    expect(chat.root).to_be_visible(timeout=DEADLINE_MS)
    expect(chat.root.locator(".mlcw-user .mlcw-body")).to_have_text("<b>Hi</b></script>")
    expect(chat.replies.last.locator("math")).to_be_visible()
    expect(chat.replies.last.locator(".mlcw-body")).to_contain_text("</script><script>")
    expect(chat.root.locator(".mlcw-state")).to_have_text("No kernel")
    expect(chat.input).to_be_disabled()
    assert again.page.evaluate("window.pwned") is None
