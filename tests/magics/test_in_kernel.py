"""The magics in a real kernel, with a real worker that follows a script."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from shlex import quote
from typing import Any

import nbformat
import pytest

from .conftest import Execute


def load(folder: Path, name: str = "_engine", arguments: str = "", **script: Any) -> str:
    """A cell that makes an engine on the scripted runtime and loads it as the magic does."""
    options = f"runtime='scripted', runtime_options={script!r}, {arguments}"
    return (
        "%load_ext mlc_widget\n"
        f"{name} = AsyncKernelMLCEngine({options})\n"
        f"%mlc load {quote(str(folder))} --to {name}"
    )


def transcript(notebook: nbformat.NotebookNode, cell: int) -> str:
    found = [
        output["data"]["text/markdown"]
        for output in notebook.cells[cell].outputs
        if "text/markdown" in output.get("data", {})
    ]
    assert len(found) == 1, notebook.cells[cell].outputs
    return str(found[0])


def printed(notebook: nbformat.NotebookNode, cell: int) -> str:
    return "".join(o.get("text", "") for o in notebook.cells[cell].outputs)


def test_cells_return_at_once_and_keep_the_reply_as_markdown(
    execute: Execute, model_folder: Path
) -> None:
    # What is so when a cell is over, before the next one begins.
    begin = (
        "done = []\nget_ipython().events.register("
        "'post_run_cell', lambda _: done.append('_chat' in globals() and _chat.done()))"
    )
    notebook = execute(
        load(model_folder, echo=True, load_s=0.5, pace_s=0.02),
        begin,
        "name = 'Ada'",
        "%%chat --system Rhyme --max-tokens 500\nI am {name}. {{x}}",
        "assert not any(done), 'it was over before the cell was'; first = _chat",
        "%%chat\nAnd you?",
        "message = await _chat; print(first.status, _chat.status, message['role'])",
        "%mlc stats",
    )
    assert "done done assistant" in printed(notebook, 6)
    first, second = transcript(notebook, 3), transcript(notebook, 5)
    assert "I am Ada. {x}" in first
    assert "Rhyme" in first
    assert "And you?" not in first
    # The second goes on with the same conversation, without the first one's system prompt.
    assert "I am Ada" in second
    assert "And you?" in second
    assert "Rhyme" not in second.replace(first, "").partition("A:")[0]
    stats = printed(notebook, 7)
    assert "script on" in stats
    assert "in 2 requests" in stats


def test_a_saved_notebook_has_the_front_end_s_code_once(
    execute: Execute, model_folder: Path
) -> None:
    notebook = execute(load(model_folder), *(f"%%chat\nNo. {i}" for i in range(5)), "await _chat;")
    state = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    widgets = [one["state"] for one in state.values() if "_view" in one["state"]]
    assert [one["_view"] for one in widgets] == ["load", *["reply"] * 5]
    (bundle,) = {one["_bundle"] for one in widgets}
    assert len(state[bundle.removeprefix("IPY_MODEL_")]["state"]["js"]) > 100_000
    assert len(nbformat.writes(notebook)) < 700_000


def test_the_demo_model_is_loaded_on_demand_and_adds(execute: Execute) -> None:
    notebook = execute(
        "%load_ext mlc_widget",
        "%%chat --model demo --temperature 0\nWhat is 17 + 25?",
        "print((await _chat)['content']); print(_engine)",
        "schema = {'type': 'object', 'properties': {'answer': {'type': 'boolean'}},"
        " 'required': ['answer'], 'additionalProperties': False}",
        "%%chat --schema schema --temperature 0 --max-tokens 60\nIs the sky blue?",
        "import json; print(type(json.loads((await _chat)['content'])['answer']))",
        "%mlc models",
        "%mlc unload",
        "%mlc models",
        "%mlc models info smollm2-135m",
        "%%chat\nStill there?",
        errors=True,
    )
    assert "42" in printed(notebook, 2)
    assert "42" in transcript(notebook, 1)
    assert "AsyncKernelMLCEngine demo: ready" in printed(notebook, 2)
    assert "bool" in printed(notebook, 5)
    assert "Built in: demo" in printed(notebook, 6)
    assert re.search(
        r"(To download|Downloaded): smollm2-135m \(98 MB, Apache", printed(notebook, 6)
    )
    assert "_engine: demo, ready" in printed(notebook, 6)
    assert "unloaded" in printed(notebook, 7)
    assert "_engine: no model" in printed(notebook, 8)
    assert "smollm2-135m: llama, Apache-2.0" in printed(notebook, 9)
    assert "Load a model first, such as with `%mlc load demo`" in printed(notebook, 10)


def test_stop_reset_and_restart(execute: Execute, model_folder: Path) -> None:
    notebook = execute(
        load(model_folder, text="word", repeat=100_000, pace_s=0.01),
        "%%chat\nOn and on",
        "import asyncio\nwhile not _chat.text: await asyncio.sleep(0.01)",
        "%mlc stop",
        "await _chat; print(_chat.status, _engine.state)",
        "%mlc reset",
        "pid = _engine.worker_pid\n%mlc restart",
        "%%chat\nOnce more",
        "while not _chat.text: await asyncio.sleep(0.01)\n"
        "print(_engine.worker_pid != pid, len(_chat.text) > 0); _chat.stop(); await _chat;",
    )
    assert "stopped ready" in printed(notebook, 4)
    assert "*Stopped.*" in transcript(notebook, 1)
    assert "new conversation" in printed(notebook, 5)
    assert "True True" in printed(notebook, 8)


def test_the_notebook_s_functions_answer_calls(execute: Execute, tools_folder: Path) -> None:
    call = '<tool_call>\n{"name": "plus", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
    notebook = execute(
        load(tools_folder, text=call, after_tools="It is 5."),
        "import asyncio\nmade, go_on = [], asyncio.Event()\ngo_on.set()\n"
        "async def add(a: int, b: int) -> int:\n"
        "    made.append(a + b); await go_on.wait(); return a + b\n"
        "plus = add",
        "%%chat --tools plus\n2 + 3?",
        "%%chat\nAnd without?",
        "second = await _chat",
        "print(made, second); go_on.clear()",
        "%%chat --tools plus\nAgain?",
        "while len(made) < 2: await asyncio.sleep(0.01)\n_chat.stop(); go_on.set(); await _chat",
        "%%chat --tools minus\nHello",
        "%%chat --tools plus --max-tokens 4\nIn short?",
        "await _chat; print(_chat.finish_reason, made)",
        errors=True,
    )
    shown = transcript(notebook, 2)
    # The call, what the function gave, and the answer to it: all below the cell that asked.
    assert shown.index("plus(") < shown.index("5") < shown.index("It is 5.")
    # Who asks without them gets no calls made.
    assert "It is 5." not in transcript(notebook, 3)
    assert printed(notebook, 5).startswith("[5] {")
    # What is stopped while a function runs goes no further.
    assert "*Its calls were stopped.*" in transcript(notebook, 6)
    assert "It is 5." not in transcript(notebook, 6)
    assert "--tools minus: no variable has that name" in printed(notebook, 8)
    # A call that was cut is not made.
    assert printed(notebook, 10).startswith("length [5, 5]")
    assert "were not made" in transcript(notebook, 9)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="stops the worker by a signal")
def test_statistics_of_a_worker_that_hangs(execute: Execute, model_folder: Path) -> None:
    notebook = execute(
        load(model_folder, text="word", repeat=100_000, pace_s=0.01, arguments="hang_timeout=1"),
        "%%chat\nOn and on",
        "import asyncio, os, signal\nwhile not _chat.text: await asyncio.sleep(0.01)\n"
        "os.kill(_engine.worker_pid, signal.SIGSTOP)\n"
        "while _engine.hang is None: await asyncio.sleep(0.01)",
        "%mlc stats",
        "os.kill(_engine.worker_pid, signal.SIGCONT)\n"
        "while _engine.hang is not None: await asyncio.sleep(0.01)\n"
        "_chat.stop(); await _chat;",
        "%mlc stats",
    )
    assert "may be hung" in printed(notebook, 3)
    assert "%mlc restart" in printed(notebook, 3)
    assert "script on" in printed(notebook, 5)


def test_named_engines_and_which_one_is_meant(execute: Execute, model_folder: Path) -> None:
    notebook = execute(
        load(model_folder, name="big", text="I am big."),
        load(model_folder, name="small", text="I am small."),
        "%%chat --to big\nWho are you?",
        "print((await _chat)['content'])",
        "%%chat\nStill?",  # the one that was used last
        "print((await _chat)['content'])",
        "%%chat --to small\nWho are you?",
        "print((await _chat)['content'])",
        "await big.terminate()",
        "%%chat --to big\nHello?",
        errors=True,
    )
    assert [printed(notebook, cell).strip() for cell in (3, 5, 7)] == [
        "I am big.",
        "I am big.",
        "I am small.",
    ]
    assert "--to big: no engine of that name; there are small" in printed(notebook, 9)


def test_an_error_is_explained(execute: Execute, model_folder: Path) -> None:
    notebook = execute(
        load(model_folder, echo=True),
        "def divide(a, b):\n    return a / b\ndivide(1, 0)",
        "%mlc explain --temperature 0",
        "print((await _chat)['content'])",
        errors=True,
    )
    said = printed(notebook, 3)
    assert "ZeroDivisionError: division by zero" in said
    assert "return a / b" in said
    assert "interactiveshell.py" not in said


def test_a_load_that_fails_is_told_by_the_reply(execute: Execute, model_folder: Path) -> None:
    notebook = execute(
        load(model_folder, load_fails="params_shard_0.bin is truncated: get it again."),
        "%%chat\nHello",
        "await _chat",
        errors=True,
    )
    assert re.search("ModelFormatError.*truncated", transcript(notebook, 1))
    assert notebook.cells[2].outputs[0]["ename"] == "ModelFormatError"


@pytest.mark.parametrize(
    "cell",
    [
        "%%chat --model nowhere\nHello",
        pytest.param("%mlc load nowhere_at_all", marks=pytest.mark.soak),
    ],
)
def test_an_unknown_model_leaves_the_cell_and_the_notebook_unharmed(
    execute: Execute, cell: str
) -> None:
    notebook = execute(
        "%load_ext mlc_widget",
        cell,
        "import asyncio\nwhile _engine.link.snapshot.error is None: await asyncio.sleep(0.01)\n"
        "print(_engine.link.snapshot.error)",
    )
    assert "neither a folder nor a .gguf file here nor a built-in model" in printed(notebook, 2)
