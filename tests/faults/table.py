"""Tries every fault in every phase of a worker's life, and writes the table of docs/faults.md.

``make faults`` runs it; ``python -m tests.faults.table --rounds 20 --jobs 4`` tries everything 20
times, in four processes at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from ..pages import replace_part
from .bench import FAULTS, PHASES, Outcome
from .one_round import run
from .rounds import Outcomes, try_rounds

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
BEGIN = "<!-- written by `make faults` -->"


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


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=_positive, default=1, help="how often to try everything")
    parser.add_argument("--jobs", type=_positive, default=1, help="how many rounds run at once")
    options = parser.parse_args()
    outcomes = run(try_rounds(options.rounds, options.jobs))
    if outcomes is None:
        return 1
    replace_part(PAGE, BEGIN, table(outcomes, options.rounds))
    print(f"{PAGE} was written.")
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
