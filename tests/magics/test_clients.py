"""Where nothing can be shown after a cell has ended: batch runs, Jupyter's consoles, exports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbclient.exceptions
import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from mlc_widget.api.clients import client_of

from ..kernels import QUICK_KERNEL, as_markdown
from ..proxy.notebook import Notebook
from .conftest import Execute
from .test_in_kernel import load, printed, transcript

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
# Each waits for something on the notebook's own loop.
ADD = (
    "import asyncio\n"
    "ready = asyncio.Event()\n"
    "async def add(a: int, b: int) -> int:\n"
    "    asyncio.get_running_loop().call_soon(ready.set)\n"
    "    await ready.wait()\n"
    "    return a + b"
)


@pytest.mark.parametrize(
    ("message_id", "metadata", "allow_stdin", "kind"),
    [
        ("6ab-f1_812_3", {}, False, "batch"),
        ("6ab-f1_812_3", {}, True, "console"),
        ("6ab-f1_812_3", {"cellId": "x"}, True, "page"),  # nbclient with a front end
        ("7b2f6a52-3f0b-4a0b-8a4d-3f1f9c6a2f11", {"cellId": "x"}, True, "page"),
        ("7b2f6a52-3f0b-4a0b-8a4d-3f1f9c6a2f11", {}, True, "page"),
    ],
)
def test_who_runs_a_cell(message_id: str, metadata: Any, allow_stdin: bool, kind: str) -> None:
    request = {
        "header": {"msg_id": message_id},
        "metadata": metadata,
        "content": {"allow_stdin": allow_stdin},
    }
    kernel = SimpleNamespace(get_parent=lambda channel: request)
    assert client_of(SimpleNamespace(kernel=kernel)) == kind


@pytest.mark.parametrize("shell", [SimpleNamespace(), SimpleNamespace(kernel=None), None])
def test_without_a_kernel_nobody_is_assumed(shell: Any) -> None:
    assert client_of(shell) == "page"


def test_a_batch_run_ends_with_the_last_reply(execute: Execute, tools_folder: Path) -> None:
    notebook = execute(
        load(tools_folder, text=CALL, after_tools="It is 5.", pace_s=0.01),
        ADD,
        "%%chat --tools add\n2 + 3?",
        "def fails(): raise ValueError('x')\ntry: fails()\nexcept ValueError as e: error = e\n"
        "import sys; sys.last_value = error",
        "%mlc explain --max-tokens 2",
        batch=True,
    )
    assert "It is 5." in transcript(notebook, 2)
    assert "…" not in transcript(notebook, 2)
    assert "Cut off" in transcript(notebook, 4)
    # What is exported says the same, and nothing of an earlier state.
    exported = as_markdown(notebook)
    assert "It is 5." in exported
    assert "<reply" not in exported
    assert "<style" not in exported


def test_a_batch_run_fails_with_its_reply(execute: Execute, model_folder: Path) -> None:
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="truncated"):
        execute(
            load(model_folder, load_fails="params_shard_0.bin is truncated: get it again."),
            "%%chat\nHello",
            batch=True,
        )


@pytest.fixture
def console() -> Iterator[BlockingKernelClient]:
    """A client like `jupyter console`, which reads messages only while a cell runs."""
    notebook = Notebook(*QUICK_KERNEL)
    yield notebook.client
    notebook.close()


def test_a_console_prints_the_answer(console: BlockingKernelClient, tools_folder: Path) -> None:
    def run(cell: str) -> str:
        outputs: list[Any] = []
        console.execute_interactive(
            cell, timeout=60, allow_stdin=True, output_hook=lambda m: outputs.append(m)
        )
        shown = ""
        for message in outputs:
            content = message["content"]
            shown += content.get("text", "") + "\n".join(content.get("traceback", ()))
            shown += content.get("data", {}).get("text/plain", "")
        return shown

    run(load(tools_folder, text=CALL, after_tools="It is 5.", pace_s=0.01))
    run(ADD)
    answer = run("%%chat --tools add\n2 + 3?")
    assert 'add({"a": 2, "b": 3})' in answer
    assert answer.rstrip().endswith("It is 5.")
    assert "<reply" not in answer
    assert "Cut off at the token limit." in run("%%chat --max-tokens 2\nAgain?")
    assert "give" in run("%%chat --temperature 9\nToo hot").lower()
    assert run("1 + 1").strip() == "2"
    # A chat prints what was said.
    run("chat = ChatWidget(_engine, tools=[add])\nawait chat.send('2 + 3?')")
    shown = run("chat")
    assert "**You**" in shown
    assert "It is 5." in shown


def test_transcripts_have_no_output_that_grows_stale(execute: Execute, model_folder: Path) -> None:
    notebook = execute(
        load(model_folder, text="Hello."),
        "%%chat\nHi",
        "chat = ChatWidget(_engine)\nchat",
        "await _chat; await chat.send('Hi')",
        "print(1)",
    )
    for cell, said in ((1, "Hello."), (2, "Hello.")):
        widget, stand_in, kept = notebook.cells[cell].outputs
        assert widget["data"]["text/plain"] == ""
        assert len(widget["data"]) == 2
        assert "Run this cell again" in stand_in["data"]["text/html"]
        assert said in kept["data"]["text/markdown"]
    exported = as_markdown(notebook)
    assert exported.count("\nHello.\n") == 2
    assert "<reply" not in exported
    assert "<style" not in exported
    assert "ChatWidget " not in exported
    assert printed(notebook, 4) == "1\n"
    assert nbformat.validate(notebook) is None
