"""A chat in a notebook's page, driven as a user drives it."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, expect

from .lab import DEADLINE_MS, Lab, Notebook

CHAT = "chat = ChatWidget(engine)\nchat"
LONG: dict[str, Any] = {"text": "word", "repeat": 20_000, "pace_s": 0.02}


def create(folder: Path, **script: Any) -> str:
    """A cell's code that makes an engine which follows a script."""
    return (
        "from mlc_widget import ChatWidget, create_kernel_mlc_engine\n"
        f"engine = await create_kernel_mlc_engine({str(folder)!r}, runtime='scripted',"
        f" runtime_options={script!r})"
    )


class Chat:
    """A chat widget in a cell's output."""

    def __init__(self, output: Locator) -> None:
        self.root = output.locator(".mlcw-chat")
        self.input = self.root.get_by_role("textbox", name="Message")
        self.stop = self.root.get_by_role("button", name="Stop")
        self.replies = self.root.locator(".mlcw-assistant")

    def ask(self, text: str) -> None:
        self.input.fill(text)
        self.input.press("Enter")

    def text_length(self) -> int:
        return len(self.replies.last.locator(".mlcw-body").inner_text())


def tool(message: Locator, name: str) -> Locator:
    """A button of a message."""
    return message.get_by_role("button", name=name, exact=True)


def press(button: Locator) -> None:
    """Use a button by the keyboard: while a reply grows, it may move away from under a click."""
    button.press("Enter")


def expect_growing(chat: Chat) -> None:
    """Wait until the last reply gets longer; not one that has ended, which is the last for now."""
    expect(chat.replies.last).to_have_attribute("aria-busy", "true")
    before = chat.text_length()
    body = chat.replies.last.locator(".mlcw-body")
    expect(body).to_have_text(re.compile(rf".{{{before + 20},}}", re.DOTALL))


def start_chat(notebook: Notebook, index: int = 1) -> Chat:
    """Run the cell of a chat."""
    notebook.run(index)
    notebook.expect_done(index)
    chat = Chat(notebook.output(index))
    expect(chat.root).to_be_visible()
    return chat


def wait_for_saved(lab: Lab, notebook: Notebook, cell: int, text: str, *, save: bool = True) -> str:
    """Wait until the transcript below a cell has a text in the file; gives the whole transcript.

    Args:
        lab: The server.
        notebook: The page.
        cell: The index of the cell.
        text: Of the transcript.
        save: Have the page save; where users share a notebook, the server saves it by itself.
    """
    path = lab.root / notebook.path
    deadline = time.monotonic() + DEADLINE_MS / 1000
    while True:
        if save:
            notebook.save()
        outputs = _saved_outputs(path, cell)
        found = [o["data"]["text/markdown"] for o in outputs if "text/markdown" in o["data"]]
        transcript = "".join("".join(part) for part in found)
        if text in transcript:
            assert len(found) == 1, f"{len(found)} transcripts"
            return transcript
        assert time.monotonic() < deadline, outputs
        notebook.page.wait_for_timeout(100)


def _saved_outputs(path: Path, cell: int) -> list[dict[str, Any]]:
    """The outputs of a cell in a notebook's file; none while a server is just writing it."""
    try:
        saved = json.loads(path.read_text())
    except ValueError:
        return []
    outputs: list[dict[str, Any]] = saved["cells"][cell]["outputs"]
    return outputs
