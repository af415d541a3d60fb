"""The engine in a user's real Jupyter kernel: interrupts, and work that goes on beside cells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..waiting import until_blocking
from .notebook import DEADLINE_S, Notebook


@pytest.fixture(scope="module")
def notebook(tiny_model: Path) -> Iterator[Notebook]:
    notebook = Notebook()
    notebook.run(f"""
import asyncio, time
from mlc_widget import create_kernel_mlc_engine
engine = await create_kernel_mlc_engine(
    {str(tiny_model)!r}, runtime="scripted",
    runtime_options={{"text": "one two", "repeat": 10**5, "pace_s": 0.005}}, show_progress=False)
hello = [{{"role": "user", "content": "Hello!"}}]
""")
    yield notebook
    notebook.run("await engine.terminate()")
    notebook.close()


@pytest.mark.parametrize(
    "awaiting",
    [
        "await engine.chat.completions.create(messages=hello)",
        "async for c in await engine.chat.completions.create(messages=hello, stream=True): pass",
    ],
    ids=["whole", "stream"],
)
def test_an_interrupt_during_await_cancels_that_request_only(
    notebook: Notebook, awaiting: str
) -> None:
    notebook.run("""
received = []
async def listen():
    async for chunk in await engine.chat.completions.create(messages=hello, stream=True):
        received.append(chunk)
task = asyncio.get_running_loop().create_task(listen())
while len(received) < 10:
    await asyncio.sleep(0.01)
""")
    cell = notebook.begin(f"print('here', flush=True)\n{awaiting}")
    # The worker runs both now: the cell below cannot ask, so give the request a moment by state.
    while True:
        message = notebook.client.get_iopub_msg(timeout=DEADLINE_S)
        if message["msg_type"] == "stream" and "here" in message["content"]["text"]:
            break
    notebook.manager.interrupt_kernel()
    reply, _ = notebook.end(cell)
    assert reply["status"] == "error"
    assert reply["ename"] in ("CancelledError", "KeyboardInterrupt")
    running = notebook.run("""
for _ in range(1000):
    if (await engine.metrics())["running_requests"] == 1:
        break
    await asyncio.sleep(0.01)
print((await engine.metrics())["running_requests"], task.done())
""")
    assert running == "1 False"
    grown = notebook.run("""
before = len(received)
while len(received) < before + 10:
    await asyncio.sleep(0.01)
task.cancel()
for _ in range(1000):
    if (await engine.metrics())["running_requests"] == 0:
        break
    await asyncio.sleep(0.01)
print((await engine.metrics())["running_requests"])
""")
    assert grown == "0"


def test_the_worker_goes_on_while_a_cell_blocks_the_kernel(notebook: Notebook) -> None:
    answer = notebook.run("""
stream = await engine.chat.completions.create(messages=hello, stream=True, max_tokens=60)
while len(stream._relay._pump.buffer) < 61:  # the kernel's own loop does not turn meanwhile
    time.sleep(0.01)
pieces = [c.choices[0].delta.content or "" async for c in stream]
print("".join(pieces) == " ".join(["one two"] * 30))
""")
    assert answer == "True"


def test_a_progress_callback_runs_on_the_users_loop(notebook: Notebook) -> None:
    answer = notebook.run("""
import threading
threads, reports = set(), []
def on_progress(report):
    threads.add(threading.current_thread())
    reports.append(report.progress)
engine.set_init_progress_callback(on_progress)
await engine.reload(engine.model_id)
print(threads == {threading.main_thread()}, reports == sorted(reports), reports[-1])
""")
    assert answer == "True True 1.0"


def test_restarting_the_kernel_ends_the_worker(tiny_model: Path) -> None:
    import psutil

    notebook = Notebook()
    try:
        pid = int(
            notebook.run(f"""
from mlc_widget import create_kernel_mlc_engine
engine = await create_kernel_mlc_engine(
    {str(tiny_model)!r}, runtime="scripted", show_progress=False)
print(engine.worker_pid)
""")
        )
        notebook.manager.restart_kernel(now=False)
        until_blocking(lambda: not psutil.pid_exists(pid))
    finally:
        notebook.close()
