"""What users try in their first hour, and how it should behave."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlc_widget.magics.transformers import CellTransformer

from .conftest import Execute
from .test_in_kernel import load, printed, transcript

HELLO = "messages=[{'role': 'user', 'content': 'Hello'}]"


SEVERAL = """\
%mlc load '{0}' '{0}/../script'
---
%%chat
Hi
---
%%chat --model '{0}'
Hi
---
print((await _chat)['content'])
---
%mlc stats
---
%mlc stats --model '{0}/../script'
---
%mlc stats --model nosuch
---
%%chat --model nosuch
Hi
---
await _chat
---
ChatWidget(_engine)
"""


def test_requests_wait_for_the_load_that_a_magic_began(
    execute: Execute, model_folder: Path
) -> None:
    notebook = execute(
        load(model_folder, text="Here I am.", load_s=0.5),
        f"answer = await _engine.chat.completions.create({HELLO})\n"
        "print(answer.choices[0].message.content)",
        f"%mlc load '{model_folder}'",
        "async for chunk in await _engine.completions.create(prompt='Hello', stream=True):\n"
        "    print(chunk.choices[0].text, end='')",
        f"%mlc load '{model_folder}'",
        "await _engine.reset_chat(); print(await _engine.runtime_stats_text())",
        f"%%chat --model '{model_folder}/../script'\nHi",  # another name, so another load
        "chat = ChatWidget(_engine); print((await chat.send('Hi'))['content'])",
        *SEVERAL.format(model_folder).split("---\n"),
        errors=True,
    )
    assert printed(notebook, 1) == "Here I am.\n"
    assert printed(notebook, 3) == "Here I am."
    assert "prefill" in printed(notebook, 5)
    assert printed(notebook, 7) == "Here I am.\n"
    ends = [str(cell.outputs) for cell in notebook.cells[8:]]
    assert "Several models are loaded: name the one that answers with --model" in ends[1]
    assert f"'model': '{model_folder}'" in ends[2]  # the transcript's
    assert printed(notebook, 11) == "Here I am.\n"
    assert f"{model_folder}/../script: prefill" in ends[4]
    assert f"{model_folder}: prefill" not in ends[5]
    assert "--model nosuch: this model is not loaded; loaded: " in ends[6]
    assert "ModelNotLoadedError" in ends[8]
    assert "nosuch" in ends[8].partition("Its load failed: ")[2]
    assert "name the one that answers, as in ChatWidget(engine, model=" in ends[9]


def test_requests_hear_of_the_load_s_failure(execute: Execute, model_folder: Path) -> None:
    notebook = execute(
        load(model_folder, load_fails="params_shard_0.bin is truncated.", load_s=0.5),
        f"await _engine.chat.completions.create({HELLO})",
        "%mlc load ''",
        errors=True,
    )
    assert notebook.cells[1].outputs[0]["ename"] == "ModelFormatError"
    assert "model_id" in printed(notebook, 2) + str(notebook.cells[2].outputs)


def test_help_needs_no_message(execute: Execute) -> None:
    notebook = execute(
        "%load_ext mlc_widget",
        "%%chat --help",
        "%%chat -h\n",
        "%%chat",
        "%%chat --model demo",
        "%%chat --nonsense",
        "'_engine' in globals()",
        errors=True,
    )
    assert "usage: %%chat" in printed(notebook, 1)
    for flag in ("--repetition-penalty", "--top-k", "--min-p"):
        assert flag in printed(notebook, 1)
    assert "usage: %%chat" in printed(notebook, 2)
    for cell in (3, 4):
        assert "write the message below this line" in str(notebook.cells[cell].outputs)
    assert "--nonsense" in str(notebook.cells[5].outputs)
    assert notebook.cells[6].outputs[0]["data"]["text/plain"] == "False"


@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        (
            "get_ipython().run_cell_magic('chat', '--help', '')\n",
            "get_ipython().run_cell_magic('chat', '--help', '\\n')\n",
        ),
        (
            "get_ipython().run_cell_magic('chat', \"--system ', '')\", '')\n",
            "get_ipython().run_cell_magic('chat', \"--system ', '')\", '\\n')\n",
        ),
        *[
            (line, line)
            for line in (
                "get_ipython().run_cell_magic('chat', '', 'Hi\\n')\n",
                "get_ipython().run_cell_magic('time', '', '')\n",
                "get_ipython().run_line_magic('load_ext', 'mlc_widget_2')\n",
                "print(\"get_ipython().run_line_magic('load_ext', 'mlc_widget')\")\n",
                "x = 1\n",
            )
        ],
    ],
)
def test_no_other_cell_is_changed(line: str, becomes: str) -> None:
    class Shell:
        autoawait = True

    assert CellTransformer(Shell(), lambda _: None)([line, "y = 2\n"]) == [becomes, "y = 2\n"]


def test_an_explanation_is_apart_from_the_conversation(
    execute: Execute, model_folder: Path
) -> None:
    notebook = execute(
        load(model_folder, echo=True),
        "%%chat --system Rhyme\nAn apple",
        "1 / 0",
        "%mlc explain",
        "await _chat;",
        "%%chat\nAnd a pear?",
        "await _chat;",
        errors=True,
    )
    explained, after = transcript(notebook, 3), transcript(notebook, 5)
    assert "ZeroDivisionError" in explained
    assert "apple" not in explained
    assert "apple" in after
    assert "ZeroDivisionError" not in after


def test_an_explanation_is_stopped_with_the_rest(execute: Execute, model_folder: Path) -> None:
    notebook = execute(
        load(model_folder, text="word", repeat=4000, pace_s=0.01),
        "%%chat\nOn and on",
        "first = _chat\n1 / 0",
        "%mlc explain",
        "import asyncio\nwhile not (_chat.text and first.text): await asyncio.sleep(0.01)",
        "%mlc stop",
        "await first; await _chat; print(first.status, _chat.status)",
        errors=True,
    )
    assert printed(notebook, 6) == "stopped stopped\n"


def test_the_names_come_back_after_a_reset(execute: Execute) -> None:
    names = "print('ChatWidget' in globals(), 'create_kernel_mlc_engine' in globals())"
    notebook = execute(
        f"%load_ext mlc_widget\n{names}",
        f"%reset -f\n{names}",
        f"%load_ext mlc_widget\n{names}",
        f"%reset -f\n%load_ext mlc_widget\n{names}",
        f"%reset -f\nif True:\n    %load_ext mlc_widget\n{names}",
        "ChatWidget = 'mine'\n%load_ext mlc_widget\nprint(ChatWidget)",
    )
    ends = [printed(notebook, cell).splitlines()[-1] for cell in range(6)]
    assert ends == ["True True", "False False", "True True", "True True", "True True", "mine"]


def test_options_for_an_engine_that_is_there(execute: Execute, model_folder: Path) -> None:
    notebook = execute(
        "%load_ext mlc_widget\n%mlc load demo",
        "first, pid = _engine, _engine.worker_pid\n%mlc load demo --device cpu",
        f"print(first is _engine, (await _engine.chat.completions.create({HELLO}))"
        ".choices[0].message.role)\n"
        "import asyncio\nwhile first.state != 'terminated': await asyncio.sleep(0.01)",
        "second = _engine\n%mlc load demo --device cpu\nprint(second is _engine)",
        "await _engine.terminate()",
        load(model_folder, name="own"),
        "%mlc load demo --device cuda --python python3",
        "%mlc load demo --to own --kernel python3",
        errors=True,
    )
    assert "--device: a new engine replaces _engine" in printed(notebook, 1)
    assert printed(notebook, 2) == "False assistant\n"
    assert printed(notebook, 3).endswith("True\n")
    for cell, flags in ((6, "--device --python:"), (7, "--kernel:")):
        text = str(notebook.cells[cell].outputs)
        assert flags in text
        assert "--runtime" not in text
        assert "own.terminate()" in text
