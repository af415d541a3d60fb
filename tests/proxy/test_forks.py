"""A process that was forked after an engine was made gets an error instead of waiting forever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ..kinds import but_for_soak
from ..waiting import has_ended

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

DEADLINE_S = 60.0
HEAD = """
import asyncio, os, sys, warnings
from mlc_widget import AsyncKernelMLCEngine, AsyncMLCEngine, KernelMLCEngine, MLCEngine
from mlc_widget.api.errors import EngineForkedError

warnings.simplefilter("error")
model = sys.argv[1]
options = dict(runtime="scripted", runtime_options=dict(repeat=10**4, pace_s=0.01))
hello = [{"role": "user", "content": "Hello!"}]

def in_child(work):
    '''Runs in a forked process, which ends well if it is done.'''
    pid = os.fork()
    if pid:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status == 0, f"the child ended with {status}"
        return
    try:
        work()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

def refused(name, call):
    try:
        call()
    except Exception as error:
        message = error if isinstance(error, EngineForkedError) else error.body
        assert "was forked" in str(message) and "spawn" in str(message), (name, error)
    else:
        raise AssertionError(f"{name} was not refused")
"""

BLOCKING = """
engine = CLASS(**options)
engine.reload(model)
stream = engine.chat.completions.create(messages=hello, stream=True)
next(stream)
client = engine.openai_client()
calls = dict(
    reload=lambda: engine.reload(model),
    unload=engine.unload,
    chat=lambda: engine.chat.completions.create(messages=hello),
    stream=lambda: engine.chat.completions.create(messages=hello, stream=True),
    completion=lambda: engine.completions.create(prompt="Hello"),
    embedding=lambda: engine.embeddings.create(input="Hello"),
    models=engine.models.list,
    abort=lambda: engine.abort("any"),
    interrupt_generate=engine.interrupt_generate,
    reset_chat=engine.reset_chat,
    get_message=engine.get_message,
    runtime_stats_text=engine.runtime_stats_text,
    forward=lambda: engine.forward_tokens_and_sample([1]),
    metrics=engine.metrics,
    device_info=engine.device_info,
    set_app_config=lambda: engine.set_app_config(None),
    set_log_level=lambda: engine.set_log_level("WARN"),
    terminate=engine.terminate,
    read_on=lambda: next(stream),
    client=lambda: client.chat.completions.create(model="", messages=hello),
    client_models=client.models.list,
)
def work():
    for name, call in calls.items():
        refused(name, call)
    stream.close()
    repr(engine)
in_child(work)
next(stream)  # here all goes on
stream.close()
answer = engine.chat.completions.create(messages=hello, max_tokens=2)
assert answer.choices[0].message.content == "Hello from"
"""

AWAITED = """
async def main():
    global engine
    engine = CLASS(**options)
    await engine.reload(model)
    stream = await engine.chat.completions.create(messages=hello, stream=True)
    await anext(stream)
    client = engine.openai_client()
    calls = dict(
        reload=lambda: engine.reload(model),
        chat=lambda: engine.chat.completions.create(messages=hello),
        stream=lambda: engine.chat.completions.create(messages=hello, stream=True),
        metrics=engine.metrics,
        terminate=engine.terminate,
        read_on=lambda: anext(stream),
        client=lambda: client.chat.completions.create(model="", messages=hello),
    )
    if hasattr(engine, "custom_request"):
        calls["custom_request"] = lambda: engine.custom_request("anything")
    def work():
        global engine
        for name, call in calls.items():
            # A forked process has no use for its parent's loop.
            asyncio._set_running_loop(None)
            async def one():
                return await call()
            refused(name, lambda: asyncio.run(one()))
        del engine
        asyncio.run(make_another())
    async def make_another():
        async with CLASS(**options) as another:
            await another.reload(model)
            await another.chat.completions.create(messages=hello, max_tokens=2)
    in_child(work)
    await stream.aclose()
    answer = await engine.chat.completions.create(messages=hello, max_tokens=2)
    assert answer.choices[0].message.content == "Hello from"
    await engine.terminate()
    print("fine")
asyncio.run(main())
"""

WIDGETS = """
from mlc_widget import ChatWidget, LoadProgress
chat = ChatWidget(engine)
reply = chat.send("Hello!")
calls = dict(
    send=lambda: chat.send("Hello!"),
    stop=chat.stop,
    result=reply.result,
    awaited=lambda: asyncio.run(reply._wait()),
    reply_stop=reply.stop,
    setting=lambda: setattr(chat, "temperature", 0.5),
    another=lambda: ChatWidget(engine),
    progress=lambda: LoadProgress(engine),
)
def work():
    for name, call in calls.items():
        refused(name, call)
    chat.close()
in_child(work)
chat.stop()
reply.result()
"""

END = """
engine.terminate()
print("fine")
"""

PROGRAMS = {
    "kernel and widgets": BLOCKING.replace("CLASS", "KernelMLCEngine") + WIDGETS + END,
    "direct": BLOCKING.replace("CLASS", "MLCEngine") + END,
    "kernel-async": AWAITED.replace("CLASS", "AsyncKernelMLCEngine"),
    "direct-async": AWAITED.replace("CLASS", "AsyncMLCEngine"),
}


@pytest.mark.parametrize(
    "program", but_for_soak(PROGRAMS, "direct", "direct-async", "kernel-async")
)
def test_a_forked_process_is_refused_at_once(tiny_model: Path, program: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HEAD + PROGRAMS[program], str(tiny_model)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("fine\n", "", 0)


_STUCK = """
import ctypes
from mlc_widget.worker.handler import KernelMLCEngineHandler

class Stuck(KernelMLCEngineHandler):
    async def custom_request(self, name, message):
        print("held", flush=True)
        ctypes.PyDLL(None).sleep(1000)  # native code that never gives the interpreter back
"""

_NOTEBOOK = (
    HEAD
    + """
engine = KernelMLCEngine(**options, handler="forked_stuck:Stuck")
engine.reload(model)
import threading, time
threading.Thread(target=engine.custom_request, args=["hold"], daemon=True).start()
while "held" not in engine._core._supervisor._process.output_tail():
    time.sleep(0.01)
if FORK:
    print(engine.worker_pid, flush=True)
time.sleep(1000)
"""
)
_FORKS = {
    "os.fork": "os.fork()",
    "multiprocessing": (
        "__import__('multiprocessing').get_context('fork')"
        ".Process(target=time.sleep, args=[1000]).start() or True"
    ),
    # The child's terminal ends with the notebook, which sends the child SIGHUP.
    "os.forkpty": ("((s := __import__('signal')).signal(s.SIGHUP, s.SIG_IGN), os.forkpty()[0])[1]"),
}


@pytest.mark.parametrize("fork", but_for_soak(_FORKS, "os.fork", "os.forkpty"))
def test_a_worker_ends_with_its_notebook_while_a_forked_process_lives(
    tiny_model: Path, tmp_path: Path, fork: str
) -> None:
    (tmp_path / "forked_stuck.py").write_text(_STUCK)
    notebook = subprocess.Popen(
        [sys.executable, "-c", _NOTEBOOK.replace("FORK", _FORKS[fork]), str(tiny_model)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        start_new_session=True,
    )
    assert notebook.stdout is not None
    worker = int(notebook.stdout.readline())
    [child] = [
        c
        for c in psutil.Process(notebook.pid).children()
        if "-c" in c.cmdline()[1:2] and c.exe() == psutil.Process().exe()
    ]
    try:
        notebook.kill()
        notebook.wait()
        deadline = time.monotonic() + DEADLINE_S
        while not has_ended(worker):
            assert time.monotonic() < deadline, "the worker lives on"
            time.sleep(0.02)
        assert child.is_running(), "it is what held the worker's fate"
    finally:
        child.send_signal(signal.SIGKILL)
        notebook.stdout.close()
