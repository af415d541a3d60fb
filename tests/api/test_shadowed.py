"""A file beside the notebook that has a package's name is named, whatever would fail by it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

USE = """
import mlc_widget
try:
    mlc_widget.{name}
except mlc_widget.RuntimeUnavailableError as error:
    print(error.message)
"""


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("openai", "kernel_mlc_engine"),
        ("pydantic", "MLCEngine"),
        ("zmq", "AsyncKernelMLCEngine"),
        ("IPython", "load_ipython_extension"),
        ("ipywidgets", "ChatWidget"),
    ],
)
def test_a_shadowing_file_is_named(package: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{package}.py"
    file.write_text("x = 1")
    ran = subprocess.run(
        [sys.executable, "-c", USE.format(name=name)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f"`import {package}` finds {file} instead" in ran.stdout
    assert "Rename that file" in ran.stdout


def test_files_with_other_names_are_left_alone(tmp_path: Path) -> None:
    for name in ("numpy", "notes", "mlc", "tokenizers"):
        (tmp_path / f"{name}.py").write_text("x = 1")
    (tmp_path / "openai").mkdir()  # a folder without modules does not hide a package
    ran = subprocess.run(
        [sys.executable, "-c", USE.format(name="kernel_mlc_engine")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout == ""
