"""The oldest supported JupyterLab, and others up to the installed one (`make soak`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ("test_lab.py", "test_conversation.py", "test_transcript_output.py")
NEEDED = ("anywidget", "nbformat", "numpy", "openai", "playwright", "psutil", "tokenizers")
NEEDED_TO_TEST = ("pytest", "pytest-asyncio", "pytest-timeout")


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("lab", "notebook", "ipykernel"),
    [("4.2", "7.2", "6"), ("4.3", "7.3", "7"), ("4.4", "7.4", "7"), ("4.5", "7.5", "7")],
)
def test_the_widgets_in_an_older_jupyterlab(
    tmp_path: Path, lab: str, notebook: str, ipykernel: str
) -> None:
    """Runs the browser's tests in a virtual environment with that host."""
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    hosts = (f"jupyterlab=={lab}.*", f"notebook=={notebook}.*", f"ipykernel=={ipykernel}.*")
    packages = (*hosts, *NEEDED, *NEEDED_TO_TEST)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    subprocess.run(
        [
            *(python, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(ROOT / "tests" / "browser" / name for name in TESTS),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
