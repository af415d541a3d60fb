"""The objects and arrays that several schemas allow, before they are written."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final

from mlc_widget.api.errors import UnsupportedFieldError
from mlc_widget.engine.schema.array_text import MOST_COUNTED, MOST_FOUND
from mlc_widget.engine.schema.complement import NoComplementError
from mlc_widget.engine.schema.conjunction import Wanted, path_of
from mlc_widget.engine.schema.emptiness import Emptiness
from mlc_widget.engine.schema.finite_values import FiniteValues
from mlc_widget.engine.schema.free_keys import FreeKeys, limits_of
from mlc_widget.engine.schema.layout import FREE_KEYS, ArrayShape, Found, ObjectShape
from mlc_widget.engine.schema.members import Members
from mlc_widget.engine.schema.scalars import NotScalarError, ScalarFinder
from mlc_widget.engine.schema.sets import NOTHING, Ids, SchemaSets
from mlc_widget.engine.schema.texts import Texts
from mlc_widget.engine.schema.values import Values

DECLARED_KEYS: Final = 256
"""The maximum number of properties that no schema names but that a schema describes."""
FREE_ITEMS: Final = 256
"""The maximum number of items of an array without a schema."""


class Shapes:
    """Makes the shapes of objects and arrays; their parts are nodes."""

    def __init__(
        self,
        sets: SchemaSets,
        members: Members,
        values: Values,
        emptiness: Emptiness,
        texts: Texts,
        scalars: ScalarFinder,
        free_keys: FreeKeys,
        node: Callable[[Ids], str],
        at: str,
    ) -> None:
        self._sets = sets
        self._members = members
        self._values = values
        self._emptiness = emptiness
        self._texts = texts
        self._scalars = scalars
        self._finite = FiniteValues(sets, values)
        self._free_keys = free_keys
        self._node = node
        self._at = at

    def array(self, bases: list[Any], wanted: Wanted) -> ArrayShape:
        """The arrays that several schemas allow.

        Raises:
            UnsupportedFieldError: `uniqueItems` or `contains` cannot be enforced.
        """
        low, high = wanted.counts("Items")
        length = max((len(b.get("prefixItems", ())) for b in bases), default=0)
        items = [self._members.item(bases, i) for i in range(length + 1)]
        if not items[-1] and high is None:
            high = max(FREE_ITEMS, length, low)
        shape = ArrayShape([self._node(i) for i in items[:-1]], self._node(items[-1]), low, high)
        self._contain(bases, items, shape)
        self._differ(bases, items, shape)
        return shape

    def _contain(self, bases: list[Any], items: list[Ids], shape: ArrayShape) -> None:
        wanted = [b for b in bases if "contains" in b
                  and (b.get("minContains", 1) > 0 or "maxContains" in b)]  # fmt: skip
        if not wanted:
            return
        at = path_of(wanted[-1], self._at)
        limited = any("maxContains" in b for b in wanted)
        if len(wanted) > (1 if limited else MOST_FOUND):
            raise _unsupported(f"{at}.contains", "that many cannot be enforced for the same array")
        lows = [b.get("minContains", 1) for b in wanted]
        highs = [b.get("maxContains") for b in wanted]
        counts = [*lows, *highs, shape.low, shape.high, len(items)]
        if max(c for c in counts if c is not None) > MOST_COUNTED:
            raise _unsupported(
                f"{at}.contains", f"more than {MOST_COUNTED} items cannot be counted"
            )
        for base, low, high in zip(wanted, lows, highs, strict=True):
            one = self._sets.ids([base["contains"]])
            nodes = [self._node(self._sets.joined(ids, one)) for ids in items]
            shape.found.append(Found(nodes[:-1], nodes[-1], low, high))
        if limited:
            try:
                none = self._sets.ids(
                    [self._sets.same(self._sets.complement(wanted[0]["contains"]))]
                )
            except NoComplementError as error:
                raise _unsupported(
                    f"{at}.maxContains",
                    f"the opposite of contains cannot be enforced because of its {error.keyword}; "
                    "leave it out",
                ) from None
            nodes = [self._node(self._sets.joined(ids, none)) for ids in items]
            shape.prefix, shape.rest = nodes[:-1], nodes[-1]

    def _differ(self, bases: list[Any], items: list[Ids], shape: ArrayShape) -> None:
        wanted = [b for b in bases if b.get("uniqueItems")]
        if not wanted or (shape.high is not None and shape.high <= 1):
            return
        at = f"{path_of(wanted[0], self._at)}.uniqueItems"
        if self._differ_by_place(items, shape.high):
            return
        if len(items) > 1 or shape.found:
            raise _unsupported(
                at, "it cannot be enforced beside prefixItems or contains; leave one of them out"
            )
        values = self._finite.of(items[-1])
        if values is not None:
            shape.distinct = [self._texts.constant(v) for v in values]
            return
        try:
            shape.scalars = self._scalars.of(items[-1])
        except NotScalarError:
            raise _unsupported(
                at,
                "only strings, numbers, true, false and null can be kept distinct; leave it out "
                "and check the answer",
            ) from None
        most = min(shape.scalars.count, FREE_ITEMS)
        if shape.low > most:
            raise _unsupported(
                at, f"{shape.low} items cannot be kept distinct; ask for at most {most}"
            )
        shape.high = int(most) if shape.high is None else min(shape.high, int(most))

    def _differ_by_place(self, items: list[Ids], high: int | None) -> bool:
        """Whether items at different places can never be equal."""
        if items[-1] == NOTHING:
            high = len(items) - 1 if high is None else min(high, len(items) - 1)
        if high is None or high >= len(items):
            return False
        return all(
            self._emptiness.is_empty(self._sets.joined(a, b), frozenset())
            for a, b in itertools.combinations(items[:high], 2)
        )

    def object(self, bases: list[Any], wanted: Wanted) -> ObjectShape:
        """The objects that several schemas allow.

        Raises:
            UnsupportedFieldError: A pattern of keys cannot be enforced.
        """
        low, high = wanted.counts("Properties")
        limits = limits_of(bases)
        names = self._free_keys.names(bases)
        named = []
        for n in names:
            ids = self._members.property(bases, n) if self._values.is_key(limits, n) else NOTHING
            named.append((n, self._node(ids), n in wanted.required))
        declared = any(b.keys() & {"patternProperties", "additionalProperties"} for b in bases)
        bound = DECLARED_KEYS if declared else FREE_KEYS
        at = next((path_of(b, self._at) for b in bases if "minProperties" in b), self._at)
        free = [(keys, self._node(ids)) for keys, ids in self._free_keys.options(bases, names)]
        witnesses = self._free_keys.witnesses(bases, names)
        last = None
        if witnesses is not None:
            last = [(keys, self._node(ids)) for keys, ids in witnesses]
        return ObjectShape(named, free, low, high, bound, at, last)


def _unsupported(at: str, problem: str) -> UnsupportedFieldError:
    return UnsupportedFieldError(f"{at}: {problem}.", param=at)
