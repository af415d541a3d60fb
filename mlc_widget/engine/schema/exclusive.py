"""The branches of a oneOf, each without the values that match another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlc_widget.api.errors import UnsupportedFieldError
from mlc_widget.engine.schema.emptiness import Emptiness
from mlc_widget.engine.schema.sets import Group, Ids, SchemaSets

_WAYS: Final = 24
"""The maximum number of alternatives, over all branches, for matching exactly one of them."""
_OPTIONS: Final = 4
"""The maximum number of alternatives for not matching one other branch."""
_COSTLIER: Final = 5
"""An alternative may be at most this many times as long as the simplest one."""


def exclusive(
    sets: SchemaSets,
    emptiness: Emptiness,
    at: str,
    branches: Sequence[Any],
    chosen: Sequence[Ids],
    done: frozenset[Group],
) -> list[Ids]:
    """The sets of schemas of the branches of a oneOf, narrowed until they exclude each other.

    Args:
        sets: The sets of all schemas.
        emptiness: Tells which branches overlap.
        at: The path of the oneOf.
        branches: Its schemas.
        chosen: For each branch, the branch and everything else that the value must match.
        done: The choices that were made.

    Raises:
        UnsupportedFieldError: They overlap in a way that cannot be excluded.
    """
    made: list[Ids] = []
    most = max(2, _WAYS // len(branches))
    for i, mine in enumerate(chosen):
        if emptiness.is_empty(mine, done):
            continue
        narrowed = [mine]
        for other in (b for j, b in enumerate(branches) if j != i):
            narrowed = [way for one in narrowed
                        for way in _without(sets, emptiness, one, other, done)][:most]  # fmt: skip
        made += narrowed
    if not made and any(not emptiness.is_empty(s, done) for s in chosen):
        raise UnsupportedFieldError(
            f"{at}: more than one of its schemas might fit the same value; use anyOf, or give "
            "each of them a required property with a different constant.",
            param=at,
        )
    return made


def _without(
    sets: SchemaSets, emptiness: Emptiness, one: Ids, other: Any, done: frozenset[Group]
) -> list[Ids]:
    """The simplest alternatives for matching some schemas and not another."""
    if emptiness.is_empty(sets.joined(one, sets.ids([other])), done):
        return [one]
    opposite = sets.complement(sets.resolved(other), lenient=True)
    options = [opposite]
    if isinstance(opposite, Mapping) and set(opposite) == {"anyOf"}:
        options = sorted(opposite["anyOf"], key=sets.cost)
    ways: list[Ids] = []
    most = math.inf
    for option in options:
        if len(ways) == _OPTIONS or (cost := sets.cost(option)) > most:
            break
        way = sets.joined(one, sets.ids([sets.same(option)]))
        if not emptiness.is_empty(way, done):
            most = min(most, _COSTLIER * cost)
            ways.append(way)
    return ways
