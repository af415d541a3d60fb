"""Whose turn it is: clients that share a model get equal parts of it, however much each asks for.

The first sequence of each client comes before the second of any, and so on, and those in the
background come after all others. With one client this is the order in which sequences came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mlc_widget.engine.runtimes.tvm.sequence import Sequence


def _owner(sequence: Sequence) -> tuple[bool, str]:
    return sequence.sampling.background, sequence.sampling.client


def in_turns(sequences: Iterable[Sequence], after: Iterable[Sequence] = ()) -> list[Sequence]:
    """The sequences by turns.

    Args:
        sequences: The oldest of each client first.
        after: Others of these clients, which have had their turns.
    """
    turns = Counter(map(_owner, after))
    keys: list[tuple[bool, int]] = []
    ordered = list(sequences)
    for sequence in ordered:
        owner = _owner(sequence)
        keys.append((owner[0], turns[owner]))
        turns[owner] += 1
    by_turn = sorted(range(len(ordered)), key=keys.__getitem__)
    return [ordered[i] for i in by_turn]


def gives_way(last: Sequence, sequence: Sequence, running: Iterable[Sequence]) -> bool:
    """Whether the last of those that are running is to make room for one that waits.

    It is if it is in the background and the other is not, or if its client has so many more that
    both are closer to an equal part then.
    """
    mine, other = _owner(last), _owner(sequence)
    if mine[0] != other[0]:
        return mine[0]
    turns = Counter(map(_owner, running))
    return turns[mine] - 1 > turns[other]


def shares(sequences: Iterable[Sequence], amount: int) -> dict[Sequence, int]:
    """Divide an amount equally among clients, and each part among the client's sequences."""
    ordered = list(sequences)
    turns = Counter(map(_owner, ordered))
    return {s: amount // len(turns) // turns[_owner(s)] for s in ordered}
