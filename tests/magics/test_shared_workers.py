"""`%mlc load --share` and `%mlc workers`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlc_widget.protocol.worker_record import DIRECTORY_VARIABLE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no shared workers there")


@pytest.fixture(autouse=True)
def runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "workers"
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(directory))
    return directory


def test_a_notebook_loads_into_a_shared_worker_lists_and_stops_it(
    said: Callable[[str], str], tiny_model: Path
) -> None:
    assert "No shared worker is running." in said("%mlc workers")
    said(f"%mlc load {tiny_model} --runtime scripted --share mine")
    try:
        listed = said("%mlc workers list")
        assert "mine: process" in listed
        assert f"model {tiny_model}: ready, 1 client," in listed
    finally:
        stopped = said("%mlc workers stop mine")
    assert "has ended." in stopped
    assert "No shared worker is running." in said("%mlc workers")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%mlc workers stop", "name the workers to stop"),
        ("%mlc workers stop nobody", "no shared worker of this name is running; there is none"),
        ("%mlc workers stop ../x", "share = '../x'"),
        ("%mlc load demo --share a/b", "share = 'a/b'"),
        ("%mlc load demo --share a --kernel python3", "give one of them"),
    ],
)
def test_what_is_wrong_is_said(said: Callable[[str], str], line: str, message: str) -> None:
    assert message in said(line)


def test_a_directory_that_others_may_enter_is_refused(
    said: Callable[[str], str], runtime_dir: Path
) -> None:
    runtime_dir.mkdir()
    runtime_dir.chmod(0o777)
    assert "`chmod 700` it" in said("%mlc workers")
