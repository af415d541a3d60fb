"""Runs rounds of faults, several at once, each in a process with a temporary folder of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from .bench import Outcome
from .one_round import Cell, read_outcomes

Outcomes = Mapping[Cell, Sequence[Outcome]]
COMMAND = (sys.executable, "-m", f"{__package__}.one_round")
_END_S = 60.0


async def try_rounds(rounds: int, jobs: int, command: Sequence[str] = COMMAND) -> Outcomes | None:
    """Try everything so often; returns every cell's outcomes, or None if a round found a fault.

    Args:
        rounds: How many processes to run.
        jobs: How many of them at once.
        command: Runs one round; it gets the round's name and the path for its outcomes.
    """
    places = asyncio.Semaphore(jobs)

    async def one(number: int) -> dict[Cell, Outcome] | None:
        async with places:
            return await _try_round(f"{number}/{rounds}", command)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number)) for number in range(1, rounds + 1)]
    together: dict[Cell, list[Outcome]] = defaultdict(list)
    for task in tasks:
        for cell, outcome in (task.result() or {}).items():
            together[cell].append(outcome)
    return together if all(task.result() is not None for task in tasks) else None


async def _try_round(name: str, command: Sequence[str]) -> dict[Cell, Outcome] | None:
    # Short paths, as sockets are in it. What a worker leaves may be unreadable by then.
    with tempfile.TemporaryDirectory(prefix="r-", ignore_cleanup_errors=True) as made:
        path = Path(made) / "outcomes.json"
        process = await asyncio.create_subprocess_exec(
            *command,
            name,
            str(path),
            env={**os.environ, "TMPDIR": made},
            start_new_session=True,  # so that Ctrl-C reaches it once: as `_end`
        )
        try:
            status = await process.wait()
        finally:
            await _end(process)
        left = sorted(found.name for found in Path(made).iterdir() if found != path)
        if left:
            print(f"{name}: WRONG: left {', '.join(left)}", flush=True)
        if status:
            print(f"{name}: WRONG: it ended with status {status}", flush=True)
        return None if left or status else read_outcomes(path)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a round that still runs, which then ends its worker."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_END_S):
            await process.wait()
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
