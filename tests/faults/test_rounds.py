"""Rounds run at once, in processes of their own, and are put together."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("only Linux can limit another process", allow_module_level=True)

from ..waiting import until
from .rounds import COMMAND, try_rounds

CELL = ("terminating", "stderr flooded")


def round_that(*lines: str) -> tuple[str, ...]:
    """A command in place of a round's, which has its `number`, the `path` for its outcomes, and
    `shared`: a folder that comes after the command.
    """
    begin = (
        "import json, os, pathlib, sys, time",
        "shared, path = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[3])",
        "number, rounds = map(int, sys.argv[2].split('/'))",
    )
    return sys.executable, "-I", "-S", "-c", "\n".join((*begin, *lines))


WRITES = f"""
outcome = dict(end="done", message="", seconds=float(number), reported=False, reloaded=False,
               answered=True)
path.write_text(json.dumps([[*{CELL!r}, outcome]]))
"""


async def test_rounds_run_at_once_and_are_put_together(tmp_path: Path) -> None:
    together = """
assert os.environ["TMPDIR"] == str(path.parent)
(shared / str(number)).write_text(str(path.parent))
while len(list(shared.iterdir())) < rounds:
    time.sleep(0.005)
"""
    command = (*round_that(together, WRITES), str(tmp_path))
    async with asyncio.timeout(60):
        outcomes = await try_rounds(2, 2, command)
    assert outcomes is not None
    assert [outcome.seconds for outcome in outcomes[CELL]] == [1, 2]
    folders = {path.read_text() for path in tmp_path.iterdir()}
    assert len(folders) == 2
    assert not any(Path(folder).exists() for folder in folders)


async def test_no_more_run_at_once_than_were_asked_for(tmp_path: Path) -> None:
    alone = """
(shared / "here").mkdir()  # which fails if another is there
(shared / "here").rmdir()
"""
    assert await try_rounds(2, 1, (*round_that(alone, WRITES), str(tmp_path)))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sys.exit(number - 1)", "2/2: WRONG: it ended with status 1"),
        ("(path.parent / 'left').touch()", "1/2: WRONG: left left"),
    ],
)
async def test_one_wrong_round_makes_all_wrong(
    line: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert await try_rounds(2, 2, (*round_that(WRITES, line), str(tmp_path))) is None
    assert said in capfd.readouterr().out


async def test_rounds_end_with_who_waits_for_them(tmp_path: Path) -> None:
    until_told = """
import signal
def end(*_):
    (shared / "ended").touch()
    sys.exit(1)
signal.signal(signal.SIGTERM, end)
(shared / "begun").touch()
time.sleep(600)
"""
    command = (*round_that(until_told), str(tmp_path))
    task = asyncio.create_task(try_rounds(1, 1, command))
    await until((tmp_path / "begun").exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (tmp_path / "ended").exists()


@pytest.mark.soak
async def test_a_round_of_one_fault() -> None:
    pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")
    outcomes = await try_rounds(1, 1, (*COMMAND, "--cell", *CELL))
    assert outcomes is not None
    assert [outcome.end for outcome in outcomes[CELL]] == ["done"]
