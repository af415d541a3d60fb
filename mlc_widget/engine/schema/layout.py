"""The shapes of objects and arrays before they are written: their parts, and how many."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass, field
from operator import ge
from typing import Final

FREE_KEYS: Final = 64
"""The maximum number of properties that no schema names, unless a schema says otherwise."""


@dataclass(slots=True)
class ObjectShape:
    """Named properties (name, node, whether it is required), then others (keys, node).

    If `last` is not None, one of its properties comes at the end.
    """

    named: list[tuple[str, str, bool]]
    free: list[tuple[str, str]]
    low: int
    high: int | None
    bound: int = FREE_KEYS
    at: str = ""
    last: list[tuple[str, str]] | None = None

    def is_alive(self, alive: Set[str]) -> bool:
        """Whether such a value exists, given the nodes that some value matches."""
        required = sum(r for _, _, r in self.named)
        if self.last is not None:
            if not any(n in alive for _, n in self.last):
                return False
            required += 1
        there = math.inf if any(n in alive for _, n in self.free) else 0
        there += sum(n in alive for _, n, _ in self.named) + (self.last is not None)
        return (
            all(n in alive for _, n, r in self.named if r)
            and max(self.low, required) <= there
            and (self.high is None or max(self.low, required) <= self.high)
        )


@dataclass(slots=True)
class Found:
    """How many of an array's items must match another schema, too, as for `contains`.

    Attributes:
        prefix: The nodes of the first items that match it.
        rest: The node of the others that match it.
        low: The minimum number of matches.
        high: The maximum; None without a limit.
    """

    prefix: list[str]
    rest: str
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class Scalars:
    """Strings, numbers, booleans and null, each with one spelling.

    Attributes:
        strings: Expressions of Lark for strings without their quotes.
        others: Expressions for numbers, booleans and null.
        count: A lower bound of the number of values; inf if it is unlimited.
        string_count: The same for strings alone.
    """

    strings: tuple[str, ...]
    others: tuple[str, ...]
    count: float
    string_count: float


@dataclass(slots=True)
class ArrayShape:
    """Nodes of the first items, and the node of the others.

    Attributes:
        prefix: The nodes of the first items.
        rest: The node of the others.
        low: The minimum number of items.
        high: The maximum; None without a limit.
        found: What each `contains` requires of them.
        distinct: Instead of nodes, the items as texts of Lark, each of which occurs at most once.
        scalars: The same for items that are too many to be listed.
    """

    prefix: list[str]
    rest: str
    low: int
    high: int | None
    found: list[Found] = field(default_factory=list)
    distinct: list[str] | None = None
    scalars: Scalars | None = None

    def is_alive(self, alive: Set[str]) -> bool:
        """Whether such a value exists, given the nodes that some value matches."""
        if self.high is not None and self.low > self.high:
            return False
        if self.distinct is not None:
            return self.low <= len(self.distinct)
        if self.scalars is not None:
            return not self.low or self.scalars.count > 0
        if self.found:
            return self._has_found(alive)
        needed = [*self.prefix[: self.low], *[self.rest][: max(0, self.low - len(self.prefix))]]
        return all(n in alive for n in needed)

    def _has_found(self, alive: Set[str]) -> bool:
        """The same for an array with `found`."""
        wanted = [f.low for f in self.found]
        reached = {tuple(0 for _ in wanted)}  # numbers of matches among the items so far
        for i in range(len(self.prefix) + max(self.low, sum(wanted)) + 1):
            if i >= self.low and any(all(map(ge, counts, wanted)) for counts in reached):
                return True
            if self.high is not None and i >= self.high:
                return False
            at = i if i < len(self.prefix) else None
            one = self.rest if at is None else self.prefix[at]
            following = set(reached) if one in alive else set()
            for k, found in enumerate(self.found):
                if (found.rest if at is None else found.prefix[at]) in alive:
                    following |= {
                        (*counts[:k], min(counts[k] + 1, found.low), *counts[k + 1 :])
                        for counts in reached
                        if found.high != 0
                    }
            reached = following
        return False


@dataclass(slots=True)
class Node:
    """The alternatives for a value: texts of Lark, other nodes, objects and arrays."""

    texts: list[str] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    objects: list[ObjectShape] = field(default_factory=list)
    arrays: list[ArrayShape] = field(default_factory=list)


def has_value(node: Node, alive: Set[str]) -> bool:
    """Whether some value matches a node, given the nodes that some value is known to match."""
    return (
        bool(node.texts)
        or any(n in alive for n in node.nodes)
        or any(o.is_alive(alive) for o in node.objects)
        or any(a.is_alive(alive) for a in node.arrays)
    )
