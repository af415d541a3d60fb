"""The transcript in the notebook, read back from the file that JupyterLab saves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from .chat import CHAT, create, start_chat, wait_for_saved
from .lab import DEADLINE_MS, Lab, Notebook

OpenNotebook = Callable[..., Notebook]


@pytest.mark.soak
def test_without_a_kernel_the_transcript_is_there_and_a_button_takes_the_chat_up_again(
    open_notebook: OpenNotebook, lab: Lab, model_folder: Path
) -> None:
    cells = [create(model_folder, text="Fine, **thanks**."), CHAT, "%load_ext mlc_widget"]
    notebook = open_notebook([*cells, "%%chat\nHow are you?"])
    for index in (0, 2, 3):
        notebook.run(index)
        notebook.expect_done(index)
    chat = start_chat(notebook)
    chat.ask("How are you?")
    wait_for_saved(lab, notebook, 1, "Fine")
    wait_for_saved(lab, notebook, 3, "Fine")
    notebook.close()
    notebook.reload()
    expect(notebook.output(1).get_by_text("How are you?").first).to_be_visible(timeout=DEADLINE_MS)
    expect(notebook.output(3).locator("strong", has_text="thanks")).to_be_visible()
    for index in (0, 1, 3):
        error = notebook.output(index).get_by_text("model not found")
        expect(error).to_have_count(1, timeout=DEADLINE_MS)  # the host has given up
        expect(error).to_be_hidden()
        expect(notebook.output(index).get_by_text("Run this cell")).to_be_visible()

    # One button runs what is needed; another one takes the conversation up again.
    notebook.wait_for_kernel()
    notebook.output(1).get_by_role("button", name="Run all up to here").click()
    notebook.page.locator(".jp-Dialog").get_by_role("button", name="Confirm Kernel Restart").click()
    expect(chat.root).to_be_visible(timeout=DEADLINE_MS)
    expect(notebook.output(1).get_by_text("Run this cell")).to_be_hidden()
    chat.root.get_by_role("button", name="Continue this chat").click()
    expect(chat.replies).to_have_count(1)
    chat.ask("And after a restart?")
    expect(chat.replies).to_have_count(2)
    assert "How are you?" in wait_for_saved(lab, notebook, 1, "And after a restart?")
