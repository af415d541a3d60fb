"""The branches of a oneOf, each without what fits another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlc_widget.api.errors import UnsupportedFieldError
from mlc_widget.engine.schema.conjunction import negated
from mlc_widget.engine.schema.emptiness import Emptiness
from mlc_widget.engine.schema.sets import Group, Ids, SchemaSets


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
        sets: Of all schemas.
        emptiness: Tells which branches overlap.
        at: The path of the oneOf.
        branches: Its schemas.
        chosen: For each branch, it and whatever else the value is to fit.
        done: The choices that were made.

    Raises:
        UnsupportedFieldError: They overlap in a way that cannot be told.
    """
    made = []
    for i, mine in enumerate(chosen):
        if emptiness.is_empty(mine, done):
            continue
        narrowed: Ids | None = mine
        for j, other in enumerate(branches):
            if i == j or emptiness.is_empty((*mine, *sets.ids([other])), done):
                continue
            opposite = negated(sets.resolved(other))
            if opposite is None:
                narrowed = None
                break
            narrowed = (*(narrowed or ()), *sets.ids([sets.same(opposite)]))
        if narrowed is not None and not emptiness.is_empty(narrowed, done):
            made.append(narrowed)
    if not made and any(not emptiness.is_empty(s, done) for s in chosen):
        raise UnsupportedFieldError(
            f"{at}: its schemas may fit one value together, which cannot be ruled out; use "
            "anyOf, or tell them apart by a required property with another constant in each.",
            param=at,
        )
    return made
