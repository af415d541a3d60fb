"""Completion of every public object, in a real kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..kernels import QUICK_KERNEL
from ..proxy.notebook import DEADLINE_S, Notebook

OBJECTS = {
    "blocking": "metrics",
    "awaited": "custom_request",
    "direct": "reload",
    "direct_async": "reload",
    "awaited.chat": "completions",
    "awaited.chat.completions": "create",
    "blocking.completions": "create",
    "blocking.embeddings": "create",
    "blocking.models": "list",
    "chat": "send",
    "progress": "close",
    "reply": "result",
    "hang": "seconds",
    "report": "time_elapsed",
    "error": "message",
    "mlc_widget": "create_kernel_mlc_engine",
    "ChatWidget": "send",
}


@pytest.fixture(scope="module")
def notebook(model_folder: Path) -> Iterator[Notebook]:
    notebook = Notebook(*QUICK_KERNEL)
    notebook.run(f"""
import mlc_widget
from mlc_widget import *
from mlc_widget.api.engine_link import Hang
blocking = KernelMLCEngine(runtime="scripted")
blocking.reload({str(model_folder)!r})
awaited, direct, direct_async = AsyncKernelMLCEngine(), MLCEngine(), AsyncMLCEngine()
chat, progress = ChatWidget(blocking), LoadProgress(blocking)
reply = chat.send("Hello!")
hang = Hang("worker", 0.0)
report = InitProgressReport(0.5, 1.0, "half", "load")
error = MLCEngineError("no")
""")
    yield notebook
    notebook.run("blocking.terminate()")
    notebook.close()


@pytest.mark.parametrize("jedi", [True, False], ids=["jedi", "no jedi"])
@pytest.mark.parametrize("name", OBJECTS)
def test_tab_completes(notebook: Notebook, name: str, jedi: bool) -> None:
    notebook.run(f"get_ipython().Completer.use_jedi = {jedi}")
    reply = notebook.client.complete(f"{name}.", reply=True, timeout=DEADLINE_S)
    found = [match.rpartition(".")[2] for match in reply["content"]["matches"]]
    assert OBJECTS[name] in found


ARGUMENTS = {
    "create_kernel_mlc_engine('demo', han": "handler=",
    "kernel_mlc_engine('demo', rec": "recovery=",
    "create_mlc_engine('demo', dev": "device=",
    "mlc_engine('demo', runtime_o": "runtime_options=",
    "AsyncKernelMLCEngine(start": "start_timeout=",
    "KernelMLCEngine(dev": "device=",
    "MLCEngine(logit": "logit_processors=",
    "AsyncMLCEngine(init": "init_progress_callback=",
    "blocking.map('x', y, sche": "schema=",
    "awaited.map_stream('x', y, show": "show_progress=",
}


@pytest.mark.parametrize("jedi", [True, False], ids=["jedi", "no jedi"])
@pytest.mark.parametrize("call", ARGUMENTS)
def test_tab_completes_options(notebook: Notebook, call: str, jedi: bool) -> None:
    notebook.run(f"get_ipython().Completer.use_jedi = {jedi}")
    reply = notebook.client.complete(call, reply=True, timeout=DEADLINE_S)
    assert ARGUMENTS[call] in reply["content"]["matches"]
