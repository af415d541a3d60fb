"""Every block of code in the README runs as it stands there."""

from __future__ import annotations

import asyncio
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pytest

from mlc_widget.api.errors import ModelDownloadError
from mlc_widget.engine.store.model_folder import fetch

from ..kernels import LocalNotebookClient

MODEL = "smollm2-135m"
ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
CELLS = [code for language, code in BLOCKS if language in ("", "python")]
COMMANDS = [
    line[2:].partition("#")[0].strip()
    for language, text in BLOCKS
    if language == "console"
    for line in text.splitlines()
]


def test_nothing_is_left_out() -> None:
    assert {language for language, _ in BLOCKS} == {"", "python", "console"}
    assert len(CELLS) >= 5
    assert COMMANDS


@pytest.fixture(scope="module")
def offline() -> bool:
    """Whether the README's model can neither be found nor downloaded here."""

    def silent(*_: Any, **counts: Any) -> None:
        pass

    try:
        asyncio.run(fetch(MODEL, silent))
    except ModelDownloadError:
        return True
    return False


@pytest.mark.timeout(600)
def test_cells_run_from_top_to_bottom(tmp_path: Path, offline: bool) -> None:
    pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")
    notebook = nbformat.v4.new_notebook()
    assert f'"{MODEL}"' in CELLS[0]
    cells = [cell.replace(f'"{MODEL}"', '"demo"') if offline else cell for cell in CELLS]
    engine = 'kernel_mlc_engine("demo").terminate(); mlc_engine("demo").terminate()'
    notebook.cells = [nbformat.v4.new_code_cell(code) for code in [*cells, engine]]
    LocalNotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    streamed = "".join(
        output["text"] for output in notebook.cells[3].outputs if output.get("name") == "stdout"
    )
    assert streamed.strip()
    assert offline or "7" in streamed, "a week has seven days"


def test_the_first_command_installs_it_with_an_extra_that_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    found = re.fullmatch(r'pip install "mlc-widget\[(\w+)\]"', COMMANDS[0])
    assert found
    assert found[1] in extras


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_commands_are_targets_of_make(command: str) -> None:
    """They are not run: they run this."""
    program, *targets = command.split()
    assert program == "make"
    subprocess.run(["make", "-n", *targets], cwd=ROOT, check=True, capture_output=True)


def test_inline_calls_name_public_things() -> None:
    """Code within sentences: what it calls or passes exists."""
    import mlc_widget

    text = re.sub(r"```.*?```", "", (ROOT / "README.md").read_text(), flags=re.S)
    calls = set(
        re.findall(r"`(?:await )?([a-z_]*mlc_engine|[A-Z]\w+(?:Engine|Widget|Error))\b", text)
    )
    assert len(calls) >= 4
    assert calls <= set(mlc_widget.__all__)
