"""A load's progress where there is no notebook: one line on a terminal, and nothing elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import asyncio, sys
from mlc_widget import create_kernel_mlc_engine
async def main():
    script = {"load_s": 0.5, **eval(sys.argv[2])}
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


def test_nothing_where_there_is_no_terminal(model_folder: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(model_folder), "{}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (ran.stdout, ran.stderr) == ("returned\n", "")
