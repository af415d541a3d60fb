"""Tries every fault in every phase once; `rounds` runs it in a process for each round."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Coroutine, Iterable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from .bench import FAULTS, PHASES, Bench, Outcome
from .expected import problem

_T = TypeVar("_T")
Cell = tuple[str, str]
"""A phase and a fault."""


async def try_cells(name: str, cells: Iterable[Cell]) -> dict[Cell, Outcome] | None:
    """Try each fault in its phase, and print how it went; returns None if something is wrong.

    Raises:
        TimeoutError: something never ended.
    """
    outcomes = {}
    problems = 0
    bench = Bench()
    try:
        for phase, fault in cells:
            try:
                outcome = outcomes[phase, fault] = await bench.run(phase, fault)
            except TimeoutError:
                print(f"{name} {phase}, {fault}: WRONG: something never ended", flush=True)
                raise
            wrong = problem(phase, fault, outcome)
            problems += bool(wrong)
            said = f"WRONG: {wrong}" if wrong else f"{outcome.end}, {outcome.seconds:.1f} s"
            print(f"{name} {phase}, {fault}: {said}", flush=True)
    finally:
        left = await bench.close()
        if left:
            problems += 1
            print(f"{name}: WRONG: workers left {', '.join(left)}", flush=True)
    return None if problems else outcomes


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run to the end; Ctrl-C and SIGTERM cancel it, and then this process exits."""

    async def cancelled_by_signal() -> _T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(cancelled_by_signal())
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)


def write_outcomes(path: Path, outcomes: dict[Cell, Outcome]) -> None:
    """Leave them as JSON for the process that puts rounds together."""
    path.write_text(json.dumps([[*cell, asdict(outcome)] for cell, outcome in outcomes.items()]))


def read_outcomes(path: Path) -> dict[Cell, Outcome]:
    """What `write_outcomes` has left."""
    return {
        (phase, fault): Outcome(**fields) for phase, fault, fields in json.loads(path.read_text())
    }


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("name", help="of the round, in front of each line")
    parser.add_argument("outcomes", type=Path, help="the file for the outcomes, as JSON")
    parser.add_argument(
        "--cell", nargs=2, action="append", metavar=("PHASE", "FAULT"), help="instead of all"
    )
    options = parser.parse_args()
    cells = [tuple(cell) for cell in options.cell or ()] or product(PHASES, FAULTS)
    outcomes = run(try_cells(options.name, cells))
    if outcomes is None:
        return 1
    write_outcomes(options.outcomes, outcomes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
