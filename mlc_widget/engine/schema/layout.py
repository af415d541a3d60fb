"""The shapes of values: which parts they have, and how many of them, before they are written."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass, field
from operator import ge
from typing import Final

FREE_KEYS: Final = 64
"""Properties that no schema names, in an object whose schema does not say how many it has."""


@dataclass(slots=True)
class ObjectShape:
    """Named properties (name, node, whether it is required), then free ones (keys, node).

    One of `last`, where it is not None, comes at the end.
    """

    named: list[tuple[str, str, bool]]
    free: list[tuple[str, str]]
    low: int
    high: int | None
    bound: int = FREE_KEYS
    at: str = ""
    last: list[tuple[str, str]] | None = None

    def is_alive(self, alive: Set[str]) -> bool:
        """Whether there is one, of nodes that some value fits."""
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
    """Of an array's items some must be of another kind, too, and maybe not too many.

    Attributes:
        prefix: The nodes of the first items, if they are of that kind.
        rest: That of the others.
        low: So many are.
        high: No more are; None if there may be any number.
    """

    prefix: list[str]
    rest: str
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class Scalars:
    """Values without parts.

    Attributes:
        strings: Expressions of Lark for the texts of strings, without their quotes.
        others: Expressions for the texts of numbers, truth values and null.
        count: There are at least so many of either; inf if there is no end of them.
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
        low: So many items there are at least.
        high: So many at most; None without a limit.
        found: What each `contains` wants of them.
        distinct: The items, as texts of Lark of which each comes once at most; instead of nodes.
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
        """Whether there is one, of nodes that some value fits."""
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
        """The same where some items must be found, each for one of them."""
        wanted = [f.low for f in self.found]
        reached = {tuple(0 for _ in wanted)}  # how many were found among the items so far
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
    """What a value may be: texts of Lark, other nodes, objects and arrays."""

    texts: list[str] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    objects: list[ObjectShape] = field(default_factory=list)
    arrays: list[ArrayShape] = field(default_factory=list)


def has_value(node: Node, alive: Set[str]) -> bool:
    """Whether some value fits a node, as far as is known of others."""
    return (
        bool(node.texts)
        or any(n in alive for n in node.nodes)
        or any(o.is_alive(alive) for o in node.objects)
        or any(a.is_alive(alive) for a in node.arrays)
    )
