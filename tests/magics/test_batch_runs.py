"""What an engine does when a cell ends is in the saved notebook of a batch run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from ..kernels import QUICK_KERNEL, LocalNotebookClient, as_markdown
from .test_clients import ADD, CALL
from .test_in_kernel import load

Run = Callable[..., list[str]]
ANSWER = "one two three four five six."


def shown(cell: nbformat.NotebookNode) -> str:
    """The outputs of a cell, as its Markdown export shows them."""
    return as_markdown(nbformat.v4.new_notebook(cells=[cell]), exclude_input=True)


def run(*sources: str, **options: Any) -> list[str]:
    """What each cell shows at its end, in a run that ends with that cell."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    ends: list[str] = []

    def keep(cell: nbformat.NotebookNode, **_: Any) -> None:
        ends.append(shown(copy.deepcopy(cell)))

    LocalNotebookClient(
        notebook, timeout=60, kernel_name="python3", on_cell_executed=keep, **options
    ).execute()
    assert ends
    return ends


TWO_CHATS = """\
one, two = ChatWidget(_engine), ChatWidget(_engine)
display(one, two)
one.send('Hi'); two.send('Hi')
None"""
TASK = """\
import asyncio
ask = _engine.chat.completions.create
messages = [dict(role='user', content='Hi')]
task = asyncio.create_task(ask(messages=messages))
task.add_done_callback(lambda t: print(t.result().choices[0].message.content))"""
READER = """\
async def read():
    async for chunk in await ask(messages=messages, stream=True):
        print(chunk.choices[0].delta.content or '', end='')
        await asyncio.sleep(0.01)
    print('.')
task = asyncio.create_task(read())"""
CLIENT = """\
client = _engine.openai_client()
await client.models.list()
async def say():
    for _ in range(2):
        answer = await client.chat.completions.create(model=MODEL, messages=messages)
        print(answer.choices[0].message.content)
task = asyncio.create_task(say())"""
TOOLS = f"""\
options = dict(text={CALL!r}, after_tools='It is 5.', pace_s=0.01)
tools = KernelMLCEngine(runtime='scripted', runtime_options=options)
tools.reload(TOOLS_MODEL)
calling = ChatWidget(tools, tools=[add])
calling.send('2 + 3?')
calling"""
CELLS = {
    "a mistyped magic": ("%%chat --max-tokns 3\nHi", "max-tokns"),
    "a chat is shown": ("chat = ChatWidget(_engine)\nchat", ""),
    "nobody awaits a reply": ("chat.send('Hi'); chat", ANSWER),
    "a reply is the cell's value": ("chat.send('Hi')", f"<Reply done: '{ANSWER}'>"),
    "two chats": (TWO_CHATS, f"{ANSWER}*{ANSWER}"),
    "two replies of one chat": ("one.send('Hi'); one.send('Hi'); one", f"{ANSWER}*{ANSWER}"),
    "a task": (TASK, ANSWER),
    "a task that reads a stream": (READER, f"{ANSWER}."),
    "a task with OpenAI's client": (CLIENT, f"{ANSWER}*{ANSWER}"),
    "%%chat": ("%%chat\nHi", ANSWER),
    "a stream that nobody reads": ("stream = await ask(messages=messages, stream=True)", ""),
    "a value": ("1 + 1", "2"),
    "functions": (f"{ADD}\n{TOOLS}", "It is 5."),
    "an error": ("chat.send('Hi'); 1 / 0\n", "ZeroDivisionError"),
    "a load that fails": ("%mlc load nosuch", "'nosuch' is neither a folder nor"),
}


def test_cells_end_with_what_they_asked_for(model_folder: Path, tools_folder: Path) -> None:
    begin = load(model_folder, text=ANSWER, pace_s=0.01)
    names = f"MODEL = {str(model_folder)!r}\nTOOLS_MODEL = {str(tools_folder)!r}\n"
    names += "vars(get_ipython()).pop('_last_traceback', None)"  # as if all cells had awaited
    sources = [begin, names, *(cell for cell, _ in CELLS.values())]
    ends = run(*sources, allow_errors=True)[2:]
    for name, (_, expected), end in zip(CELLS, CELLS.values(), ends, strict=True):
        rest = end
        for part in filter(None, expected.split("*")):
            assert part in rest, f"{name}: {end}"
            rest = rest.partition(part)[2]
        assert "queued" not in end, name
        assert "running" not in end, name
    # The chat's last reply was asked for by the cell that failed.
    assert ends[2].count(ANSWER) == 1


@pytest.mark.parametrize(
    "last",
    [
        "1 / 0",
        pytest.param("chat", marks=pytest.mark.soak),
        pytest.param("None", marks=pytest.mark.soak),
    ],
)
def test_a_notebook_of_one_cell(model_folder: Path, last: str) -> None:
    cell = (
        "from mlc_widget import ChatWidget, KernelMLCEngine\n"
        f"options = dict(text={ANSWER!r}, pace_s=0.02)\n"
        "engine = KernelMLCEngine(runtime='scripted', runtime_options=options)\n"
        f"engine.reload({str(model_folder)!r})\n"
        f"chat = ChatWidget(engine)\ndisplay(chat)\nchat.send('Hi')\n{last}"
    )
    (end,) = run(cell, allow_errors=True, extra_arguments=[*QUICK_KERNEL])
    assert ANSWER in end
