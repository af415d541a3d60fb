"""Tries every fault in every phase of a worker's life, and writes the table of docs/faults.md.

``make faults`` runs it; ``python -m tests.faults.table --rounds 20`` tries everything 20 times.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from ..pages import replace_part
from .bench import FAULTS, PHASES, Bench, Outcome
from .expected import problem

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
BEGIN = "<!-- written by `make faults` -->"
Outcomes = Mapping[tuple[str, str], Sequence[Outcome]]


def table(outcomes: Outcomes, rounds: int) -> str:
    """The outcomes as a Markdown table, each with the longest time that it took."""
    often = "once" if rounds == 1 else f"{rounds} times"
    lines = [
        f"Tried on {date.today().isoformat()}, {often} each.",
        "",
        f"| | {' | '.join(PHASES)} |",
        f"| --- |{' --- |' * len(PHASES)}",
    ]
    lines += [
        f"| **{fault}** | {' | '.join(_cell(outcomes[phase, fault]) for phase in PHASES)} |"
        for fault in FAULTS
    ]
    return "\n".join(lines)


def _cell(outcomes: Sequence[Outcome]) -> str:
    ends = " or ".join(sorted({outcome.end for outcome in outcomes}))
    hang = "reported; " if any(outcome.reported for outcome in outcomes) else ""
    return f"{hang}{ends}, {max(outcome.seconds for outcome in outcomes):.1f} s"


async def try_all(rounds: int) -> Outcomes | None:
    """Try every fault in every phase so many times; returns None if something went wrong."""
    outcomes: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    problems = 0
    for number in range(1, rounds + 1):
        bench = Bench()
        for phase in PHASES:
            for fault in FAULTS:
                outcome = await bench.run(phase, fault)
                outcomes[phase, fault].append(outcome)
                wrong = problem(phase, fault, outcome)
                problems += bool(wrong)
                said = f"WRONG: {wrong}" if wrong else f"{outcome.end}, {outcome.seconds:.1f} s"
                print(f"{number}/{rounds} {phase}, {fault}: {said}", flush=True)
        if left := await bench.close():
            problems += 1
            print(f"WRONG: workers left {', '.join(left)}")
    return None if problems else outcomes


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=1, help="how often to try everything")
    rounds = parser.parse_args().rounds
    outcomes = asyncio.run(try_all(rounds))
    if outcomes is None:
        return 1
    replace_part(PAGE, BEGIN, table(outcomes, rounds))
    print(f"{PAGE} was written.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
