"""A map that is killed and run again: the same table, and nothing finished is computed twice."""

from __future__ import annotations

import collections
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ...waiting import until_blocking

ROWS = 60
BATCH = 8
AHEAD = 2 * BATCH + 4

SCRIPT = """
import asyncio, json, os, sys
from mlc_widget import AsyncMLCEngineInterface
from mlc_widget.api.home_loop import HomeLoop

folder, rows, batch, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
log = os.open(os.path.join(folder, "log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)

class Core:
    def set_init_progress_callback(self, callback):
        pass

    async def list_models(self):
        return [{"id": "m", "created": 1, "fingerprint": "f", "max_num_sequence": batch}]

    async def request(self, kind, request):
        text = request["messages"][-1]["content"]
        os.write(log, (text + "\\n").encode())
        await asyncio.sleep(0.002)
        message = {"content": f"{text}: {request['seed']}"}
        return {"choices": [{"message": message, "finish_reason": "stop"}]}

async def main():
    import random
    data = [{"text": f"row {i}"} for i in range(rows)]
    random.Random(seed).shuffle(data)
    engine = AsyncMLCEngineInterface(Core(), HomeLoop.shared())
    made = await engine.map("{text}", data, cache=os.path.join(folder, "cache"))
    made.sort(key=lambda row: row["text"])
    with open(os.path.join(folder, "table.json"), "w") as file:
        json.dump(made, file)

asyncio.run(main())
"""


def start(folder: Path, seed: int) -> subprocess.Popen[bytes]:
    arguments = [str(folder), str(ROWS), str(BATCH), str(seed)]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments])


def asked(folder: Path) -> list[str]:
    log = folder / "log"
    return log.read_text().splitlines() if log.exists() else []


def _wait_for(folder: Path, wanted: int, process: subprocess.Popen[bytes]) -> None:
    until_blocking(lambda: len(asked(folder)) >= wanted or process.poll() is not None)


def table(folder: Path, kills: int) -> list[dict[str, str]]:
    """The table of a map that was killed so many times, at places that are drawn."""
    draw = random.Random(kills)
    for number in range(kills):
        before = len(asked(folder))
        process = start(folder, number)
        wanted = before + draw.randint(1, max(1, ROWS // (kills + 1)))
        _wait_for(folder, wanted, process)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    last = start(folder, kills)
    assert last.wait(120) == 0
    found: list[dict[str, str]] = json.loads((folder / "table.json").read_text())
    return found


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_a_killed_map_goes_on_where_it_was(tmp_path: Path, kills: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert table(killed, kills) == table(whole, 0)
    times = collections.Counter(asked(killed))
    assert set(times) == {f"row {i}" for i in range(ROWS)}
    assert sum(times.values()) - ROWS <= kills * AHEAD, "only those that ran are computed again"
