"""Objects and arrays as Lark: which parts come, how many of them, and the commas between them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Final

from mlc_widget.api.errors import UnsupportedFieldError
from mlc_widget.engine.schema.keys import KeyPatterns
from mlc_widget.engine.schema.lark import LarkText, json_text, quoted

FREE_KEYS: Final = 64
"""Properties that no schema names, in an object whose schema does not say how many it has."""
_COUNTED: Final = 100
"""Named properties of an object of which some number must be there."""
_ANY_ORDER: Final = 5
"""Properties without a name that must be there, and may yet come in any order."""
_DISTINCT: Final = 26
"""Properties without a name of which so many must be there that they must differ."""
_BLOCK: Final = 16
"""Properties in one rule; rules that lead to each other one by one would be too deep."""


@dataclass(slots=True)
class ObjectShape:
    """Named properties (name, node, whether it is required), then free ones (keys, node)."""

    named: list[tuple[str, str, bool]]
    free: list[tuple[str, str]]
    low: int
    high: int | None
    bound: int = FREE_KEYS
    at: str = ""

    def is_alive(self, alive: Set[str]) -> bool:
        """Whether there is one, of nodes that some value fits."""
        required = sum(r for _, _, r in self.named)
        there = math.inf if any(n in alive for _, n in self.free) else 0
        there += sum(n in alive for _, n, _ in self.named)
        return (
            all(n in alive for _, n, r in self.named if r)
            and max(self.low, required) <= there
            and (self.high is None or max(self.low, required) <= self.high)
        )


@dataclass(slots=True)
class ArrayShape:
    """Nodes of the first items, and the node of the others."""

    prefix: list[str]
    rest: str
    low: int
    high: int | None

    def is_alive(self, alive: Set[str]) -> bool:
        """Whether there is one, of nodes that some value fits."""
        needed = [*self.prefix[: self.low], *[self.rest][: max(0, self.low - len(self.prefix))]]
        return (self.high is None or self.low <= self.high) and all(n in alive for n in needed)


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


class Writer:
    """Writes objects and arrays as Lark; `used` are the nodes that these refer to."""

    def __init__(self, lark: LarkText, patterns: KeyPatterns, alive: Set[str]) -> None:
        self.lark = lark
        self.patterns = patterns
        self.used: set[str] = set()
        self._alive = alive

    def use(self, node: str) -> str:
        """Refer to a node."""
        self.used.add(node)
        return node

    # --- arrays -----------------------------------------------------------------------------------

    def array(self, array: ArrayShape) -> str:
        """An array, from bracket to bracket."""
        prefix, low, high = array.prefix, array.low, array.high
        dead = next((i for i, n in enumerate(prefix) if n not in self._alive), None)
        if dead is None and array.rest not in self._alive:
            dead = len(prefix)
        if dead is not None:
            high = dead if high is None else min(dead, high)
        if high == 0:
            return '"[" "]"'
        listed = prefix if high is None else prefix[:high]
        tail = ""
        if high is None or high > len(prefix):
            least = max(0, low - len(listed))
            rest = f'"," {self.use(array.rest)}'
            if listed:
                tail = _times(rest, least, None if high is None else high - len(listed))
            else:
                more = _times(rest, max(0, least - 1), None if high is None else high - 1)
                one = f"{array.rest} {more}"
                return f'"[" {one if low else f"({one})?"} "]"'
        for i in range(len(listed) - 1, 0, -1):
            item = f'"," {self.use(listed[i])} {tail}'
            tail = item if i < low else self.lark.rule(f"({item})?")
        first = f"{self.use(listed[0])} {tail}"
        return f'"[" {first if low else f"({first})?"} "]"'

    # --- objects ----------------------------------------------------------------------------------

    def object(self, wanted: ObjectShape) -> str:
        """An object, from brace to brace."""
        named = [(self.lark.rule(self._pair(name, node)), required)
                 for name, node, required in wanted.named if node in self._alive]  # fmt: skip
        free = [(keys, node) for keys, node in wanted.free if node in self._alive]
        required, low, high = sum(r for _, r in named), wanted.low, wanted.high
        tails = _Free(self, free, max(0, low - required), wanted)
        optional = required < len(named)
        counts = (low > required or (high is not None and (free or high < len(named)))) and optional
        if counts:
            return self._counted(named, tails, wanted)
        least = max(0, low - len(named))
        most = None if high is None else high - len(named)
        return f'"{{" {self._listed([*named], lambda first: tails.text(least, most, first))} "}}"'

    def _pair(self, name: str, node: str) -> str:
        return f'{quoted(json_text(name))} ":" {self.use(node)}'

    def _listed(self, named: list[tuple[str, bool]], free: Callable[[bool], str]) -> str:
        """Properties in their order, whichever of them come, with commas between them."""
        first_required = next((i for i, (_, required) in enumerate(named) if required), None)
        tails = self._tails(named, free(False))
        last = len(named) - 1 if first_required is None else first_required
        options = [f"{named[i][0]} {tails(i + 1)}" for i in range(last + 1)]
        if first_required is None:
            options.append(free(True) or '""')
        return f"({' | '.join(options)})"

    def _tails(self, named: list[tuple[str, bool]], free: str) -> Callable[[int], str]:
        """What may follow when the properties before an index have been decided."""
        end = self.lark.rule(free) if free and len(named) > 1 else free
        starts = {len(named): end}
        pieces = [f'"," {text}' if required else self.lark.rule(f'("," {text})?')
                  for text, required in named]  # fmt: skip
        for start in reversed(range(0, len(named), _BLOCK)):
            stop = min(start + _BLOCK, len(named))
            starts[start] = self.lark.rule(f"{' '.join(pieces[start:stop])} {starts[stop]}")

        def tail(i: int) -> str:
            if i in starts:
                return starts[i]
            stop = min((i // _BLOCK + 1) * _BLOCK, len(named))
            return f"{' '.join(pieces[i:stop])} {starts[stop]}"

        return tail

    def _counted(self, named: list[tuple[str, bool]], free: _Free, wanted: ObjectShape) -> str:
        """The same where only so many may or must come: a rule for each place and count."""
        low, high = wanted.low, wanted.high
        if len(named) > _COUNTED:
            at = f"{wanted.at}.{'minProperties' if low else 'maxProperties'}"
            raise UnsupportedFieldError(
                f"{at} = {low or high}: more than {_COUNTED} properties cannot be counted; leave "
                "it out.",
                param=at,
            )
        most = max(low, 1) if high is None else high  # beyond it the count makes no difference
        n = len(named)
        needed = [sum(r for _, r in named[i:]) for i in range(n + 1)]
        rules: dict[tuple[int, int], str | None] = {}
        for count in range(min(n, most) + 1):
            short = count < needed[0] or (count < low and not free.options)
            if short or (high is not None and count > high):
                rules[n, count] = None
            else:
                left = None if high is None else high - count
                text = free.text(max(0, low - count), left, count == 0)
                rules[n, count] = self.lark.rule(text or '""')
        for i in reversed(range(n)):
            for count in range(min(i, most) + 1):
                more = min(count + 1, most) if high is None else count + 1
                options = []
                if after := rules.get((i + 1, more)):
                    comma = '"," ' if count else ""
                    options.append(f"{comma}{named[i][0]} {after}")
                if not named[i][1] and (skipped := rules.get((i + 1, count))):
                    options.append(skipped)
                if high is not None and count + needed[i] > high:
                    options = []
                rules[i, count] = self.lark.rule(" | ".join(options)) if options else None
        return f'"{{" {rules[0, 0]} "}}"'


def _times(text: str, low: int, high: int | None) -> str:
    """A text from `low` to `high` times."""
    if high == 0:
        return ""
    return f"({text}){{{low},{'' if high is None else high}}}"


class _Free:
    """The properties that no schema names, after those that one does."""

    def __init__(
        self, writer: Writer, options: list[tuple[str, str]], distinct: int, wanted: ObjectShape
    ) -> None:
        self.options = options
        self._writer = writer
        self._bound = wanted.bound
        self._distinct: list[str] = []
        self._members: dict[int, str] = {}
        if options and distinct > 1:
            keys = [k for k, _ in options]
            parts = writer.patterns.distinct(keys, distinct) if distinct <= _DISTINCT else None
            if parts is None:
                at = f"{wanted.at}.minProperties"
                raise UnsupportedFieldError(
                    f"{at} = {wanted.low}: so many keys that differ cannot be held to; name them "
                    "in properties, or ask for fewer.",
                    param=at,
                )
            self._distinct = parts

    def text(self, low: int, high: int | None, first: bool) -> str:
        """From `low` to `high` of them; `first` where none comes before them."""
        if not self.options or high == 0:
            return ""
        most = max(self._bound, low) if high is None else high
        comma = "" if first else '"," '
        if low:
            text = comma + self._differing(low)
            more = f'"," {self._member(-1)}' if most > low else ""
            return f"{text} {_times(more, 0, most - low)}"
        one = self._member(-1)
        more = f'"," {one}'
        return f"({one} {_times(more, 0, most - 1)})?" if first else _times(more, 0, most)

    def _differing(self, count: int) -> str:
        """So many that differ from each other, so that they count: in any order if they are few."""
        if count == 1:
            return self._member(-1)
        if count > _ANY_ORDER:
            return ' "," '.join(self._member(i) for i in range(count))
        rules: dict[frozenset[int], str] = {}
        for n in range(count - 1, -1, -1):
            for used in map(frozenset, itertools.combinations(range(count), n)):
                options = [
                    f'{self._member(i)} "," {rules[used | {i}]}' if n < count - 1
                    else self._member(i)
                    for i in range(count) if i not in used
                ]  # fmt: skip
                rules[used] = self._writer.lark.rule(" | ".join(options))
        return rules[frozenset()]

    def _member(self, slot: int) -> str:
        if slot not in self._members:
            options = []
            for keys, node in self.options:
                if slot >= 0:
                    keys = f"{keys} & {self._distinct[slot]}"
                    if not self._writer.patterns.is_satisfiable(keys):
                        continue
                inside = self._writer.lark.terminal(keys)
                key = self._writer.lark.terminal(f'"\\"" {inside} "\\""')
                options.append(f'{key} ":" {self._writer.use(node)}')
            self._members[slot] = self._writer.lark.rule(" | ".join(options))
        return self._members[slot]
