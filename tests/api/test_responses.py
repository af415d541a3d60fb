"""OpenAI's types of responses, which are imported and built when they are first used."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import gc, os, signal, sys, threading
from importlib import import_module
signal.signal(signal.SIGINT, signal.default_int_handler)
from mlc_widget.api import responses
chunk = {
    "id": "", "object": "chat.completion.chunk", "created": 0, "model": "",
    "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None, "delta": {}}],
}
def interrupted(name):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        go_on.wait(60)
    except KeyboardInterrupt:  # as pydantic's compiled code may
        raise RuntimeError("an interrupt became another error")
    collected = gc.isenabled()
    module = import_module(name)
    print("collected meanwhile" if collected else "not collected meanwhile")
    return module
go_on = threading.Event()
responses.import_module = interrupted
try:
    responses.chat_completion_chunk(chunk)
except KeyboardInterrupt:
    print("interrupted")
go_on.set()
print(responses.chat_completion_chunk(chunk).choices[0].finish_reason, gc.isenabled())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends itself a signal")
def test_an_interrupt_while_types_are_built_is_one() -> None:
    """And they are there afterwards."""
    program = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    said = ["interrupted", "not collected meanwhile", "stop True"]
    assert (done.stdout.splitlines(), done.stderr) == (said, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_process_that_is_forked_meanwhile_has_them() -> None:
    program = """
import os
from mlc_widget.api import responses
responses.warm_up()
pid = os.fork()
made = responses.model({"id": "m", "object": "model", "created": 0, "owned_by": "x"})
os.write(1, f"{made.id}\\n".encode())
if pid:
    assert os.waitpid(pid, 0)[1] == 0
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.split(), done.returncode) == (["m", "m"], 0)
