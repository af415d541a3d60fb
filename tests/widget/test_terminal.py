"""A load's progress where there is no notebook: one line on a terminal, a few lines elsewhere."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.api.engine_link import EngineSnapshot
from mlc_widget.api.errors import ModelFormatError
from mlc_widget.widget import terminal

from ..kernels import TYPES_WHEN_USED

SCRIPT = f"""
{TYPES_WHEN_USED}
import asyncio, sys
from mlc_widget import create_kernel_mlc_engine
async def main():
    script = dict(load_s=0.5, **eval(sys.argv[2]))
    engine = await create_kernel_mlc_engine(
        sys.argv[1], runtime="scripted", runtime_options=script
    )
    print("returned")
    await engine.terminate()
asyncio.run(main())
"""


def on_terminal(folder: Path, **script: object) -> str:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), repr(script)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "60"},
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # the other end is closed: it ended
        pass
    finally:
        os.close(ours)
        process.wait(30)
    return shown.decode()


def test_one_line_on_a_terminal_that_ends_with_the_result(model_folder: Path) -> None:
    shown = on_terminal(model_folder)
    assert shown.count("\n") == 2, shown
    line, returned = shown.split("\n")[:2]
    assert returned.strip() == "returned"
    steps = line.split("\r\x1b[K")
    assert "script: starting the worker …" in steps
    assert any("%" in step and "MB" in step for step in steps)
    assert steps[-1].startswith("script is ready in ")
    assert all(len(step) < 60 for step in steps)


def test_a_failed_load_leaves_only_its_error(model_folder: Path) -> None:
    shown = on_terminal(model_folder, load_fails="params_shard_0.bin is truncated")
    assert "%" not in shown.rpartition("\r\x1b[K")[2]
    assert "ModelFormatError: params_shard_0.bin is truncated" in shown
    assert shown.count("params_shard_0.bin is truncated") == 1


def test_a_few_plain_lines_where_there_is_no_terminal(model_folder: Path) -> None:
    soon = "import mlc_widget.widget.terminal as terminal; terminal._QUIET_S = 0.02\n"
    ran = subprocess.run(
        [sys.executable, "-c", soon + SCRIPT, str(model_folder), "{}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout == "returned\n"
    *loading, ready = ran.stderr.splitlines()
    assert ready.startswith("script is ready in ")
    assert 1 <= len(loading) <= 12, loading  # each after twice the time of the one before
    assert all(line.startswith("script") and line.isprintable() for line in loading)


class Link:
    """What the progress needs of an engine's link."""

    def __init__(self) -> None:
        self.snapshot = EngineSnapshot("starting", ("folder/a\nmodel",))
        self._observers: list[Callable[[EngineSnapshot], object]] = []

    def call_soon(self, function: Callable[[], object]) -> None:
        function()

    def observe(self, observer: Callable[[EngineSnapshot], object]) -> Callable[[], object]:
        self._observers.append(observer)
        return lambda: None

    def become(self, **changes: Any) -> None:
        self.snapshot = replace(self.snapshot, **changes)
        for observer in self._observers:
            observer(self.snapshot)


@pytest.mark.parametrize(
    ("model", "error", "last"),
    [("a\nmodel", None, "a\\nmodel is ready.\n"), (None, ModelFormatError("it is raised"), "")],
)
def test_a_long_load_is_told_with_its_end(
    monkeypatch: pytest.MonkeyPatch, model: str | None, error: Exception | None, last: str
) -> None:
    monkeypatch.setattr(terminal, "_QUIET_S", 1e-3)
    link, stream = Link(), io.StringIO()
    progress = terminal.PlainProgress(link, stream)  # type: ignore[arg-type]
    while not stream.getvalue():
        progress.join(0.01)
    link.become(state="ready" if model else "idle", models=(model,) if model else (), error=error)
    progress.join(30)
    assert stream.getvalue().replace("a\\nmodel: starting the worker …\n", "") == last


def test_a_short_load_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_QUIET_S", 1e3)
    link, stream = Link(), io.StringIO()
    progress = terminal.PlainProgress(link, stream)  # type: ignore[arg-type]
    link.become(state="ready")
    progress.join(30)
    assert not progress._writer.is_alive()
    assert stream.getvalue() == ""


def test_an_engine_that_ends_before_its_load_is_no_longer_followed() -> None:
    link = Link()
    link.snapshot = EngineSnapshot()
    progress = terminal.PlainProgress(link, io.StringIO())  # type: ignore[arg-type]
    link.become(state="terminated")
    progress.join(30)
    assert not progress._writer.is_alive()
