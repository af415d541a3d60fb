"""An engine ends when no variable refers to it, whatever was done with it, in a real kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ..kinds import but_for_soak
from ..waiting import until_blocking
from .notebook import Notebook

MAKE = "engine = await create_kernel_mlc_engine(model, **options)"

# What cells do with an engine, beside making it. Each kind is done with an engine of its own, one
# cell after the other: one that keeps the engine fails its kind, and each kind costs a worker.
USES = {
    "nothing": [],
    "requests, of which some fail": [
        "await engine.chat.completions.create(messages=hello, max_tokens=3)",
        (
            "try:\n    await engine.chat.completions.create(messages=hello, temperature=-1)\n"
            "except Exception as error:\n    kept = error"
        ),
        "await engine.abort(17)",
        "engine.chat.completions",
        "engine.state",
    ],
    "loads that fail": [
        "await engine.reload('/no/such/folder')",
        (
            "async def load(engine):\n    await engine.reload('/no/such/folder')\n"
            "try:\n    await load(engine)\nexcept Exception:\n    pass"
        ),
        (
            "try:\n    await create_kernel_mlc_engine('/no/such/folder', **options)\n"
            "except Exception as error:\n    kept = error"
        ),
    ],
    "a death": [
        (
            "import os, signal\nos.kill(engine.worker_pid, signal.SIGKILL)\n"
            "while engine.state != 'dead': await asyncio.sleep(0.01)\n"
            "await engine.chat.completions.create(messages=hello, max_tokens=3)"
        )
    ],
    "a stream that was left": [
        "stream = await engine.chat.completions.create(messages=hello, stream=True)",
        "async for chunk in stream:\n    break",
    ],
    "a stream that is kept": [
        (
            "stream = await engine.chat.completions.create(messages=hello, stream=True)\n"
            "first = await anext(aiter(stream))"
        )
    ],
    "openai_client": [
        (
            "client = engine.openai_client()\n"
            "answer = await client.chat.completions.create(model='', messages=hello, max_tokens=3)"
        ),
        (
            "async for chunk in await client.chat.completions.create("
            "model='', messages=hello, stream=True):\n    break"
        ),
    ],
    "magics": [
        "%%chat --max-tokens 3\nHello!",
        "await _chat",
        "_chat",
        "%%chat --temperature 99\nHello!",
        "%mlc stats",
        "%mlc models",
        "%mlc reset",
        "%mlc explain",
        "%mlc load",
        "%mlc load /no/such/folder --to nobody",
    ],
    "%%chat that runs": ["%%chat\nHello!"],
    "ChatWidget": [
        "chat = ChatWidget(engine)\nchat",
        "reply = chat.send('Hello!')",
        "await reply",
        "ChatWidget(engine, temperature=99)",
        "ChatWidget(engine, temprature=1)",
    ],
    "widgets that were closed": [
        "chat = ChatWidget(engine, history=[])\ndisplay(chat)\nchat.on_reply(print)",
        "await chat.send('Hello!')",
        "chat.close(); del chat",
        "from mlc_widget import LoadProgress",
        "LoadProgress(engine)",
    ],
}


@pytest.fixture(scope="module")
def notebook(tiny_model: Path) -> Iterator[Notebook]:
    notebook = Notebook()
    notebook.run(f"""
%load_ext mlc_widget
import asyncio
model = {str(tiny_model)!r}
options = dict(runtime="scripted", runtime_options=dict(text="one two ", repeat=50, pace_s=0.01))
hello = [{{"role": "user", "content": "Hello!"}}]
""")
    yield notebook
    notebook.close()


def until_gone(pid: int) -> None:
    until_blocking(lambda: not psutil.pid_exists(pid))


@pytest.mark.parametrize(
    "use", but_for_soak(USES, "nothing", "loads that fail", "widgets that were closed")
)
def test_a_worker_ends_when_its_cell_runs_again(notebook: Notebook, use: str) -> None:
    notebook.run(MAKE)
    for cell in USES[use]:
        notebook.end(notebook.begin(cell))  # some fail
    worker = int(notebook.run("print(engine.worker_pid)"))
    notebook.run("engine = AsyncKernelMLCEngine(**options)")
    until_gone(worker)


def test_what_was_said_stays_and_says_that_the_engine_has_ended(notebook: Notebook) -> None:
    notebook.run(MAKE)
    notebook.run("chat = ChatWidget(engine)\nlong = chat.send('Hello!')\nawait asyncio.sleep(0)")
    notebook.run("while not long.text: await asyncio.sleep(0.01)")
    worker = int(notebook.run("print(engine.worker_pid)"))
    notebook.run("del engine")
    until_gone(worker)
    printed = notebook.run("""
while chat._link.snapshot.state != "terminated": await asyncio.sleep(0.01)
try:
    await long
except Exception as error:
    print(long.status, len(chat.messages), "one" in chat.export(), error)
shown = chat._mirrors["_engine"]()
print(shown["state"], shown["error"]["message"])
try:
    chat.send("Are you there?")
except Exception as error:
    print(type(error).__name__, error)
""")
    reply, shown, refusal = printed.splitlines()
    assert reply.startswith("error 2 True This engine has ended")
    assert shown.startswith(
        "terminated This engine has ended because no variable referred to it any longer"
    )
    assert refusal == f"EngineTerminatedError {shown.removeprefix('terminated ')}"
