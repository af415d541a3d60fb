"""Objects as Lark: which properties come, how many of them, and the commas between them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from mlc_widget.api.errors import UnsupportedFieldError
from mlc_widget.engine.schema.lark import json_text, quoted, times
from mlc_widget.engine.schema.layout import ObjectShape
from mlc_widget.engine.schema.writer import Writer

_COUNTED: Final = 100
"""The maximum number of named properties that can be counted for `minProperties`."""
_ANY_ORDER: Final = 5
"""The maximum number of required unnamed properties that may come in any order."""
_DISTINCT: Final = 26
"""The maximum number of unnamed properties that are required to have distinct keys."""
_BLOCK: Final = 16
"""The number of properties in one rule; a chain of one rule per property would be too deep."""


def object_text(wanted: ObjectShape, writer: Writer) -> str:
    """An object, from brace to brace."""
    return _Objects(writer).object(wanted)


class _Objects:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._lark = writer.lark

    def object(self, wanted: ObjectShape) -> str:
        """An object, from brace to brace."""
        alive = self._writer.is_alive
        named = [(self._lark.rule(self._pair(name, node)), required)
                 for name, node, required in wanted.named if alive(node)]  # fmt: skip
        free = [(keys, node) for keys, node in wanted.free if alive(node)]
        required, low, high = sum(r for _, r in named), wanted.low, wanted.high
        if wanted.last is not None:
            # A free property may have the same key as the last one; then they count as one.
            low = low if free and low > 1 else max(0, low - 1)
            high = None if high is None else high - 1
            wanted = replace(wanted, low=low, high=high)
        tails = _Free(self._writer, free, max(0, low - required), wanted)
        optional = required < len(named)
        counts = (low > required or (high is not None and (free or high < len(named)))) and optional
        if counts:
            return self._counted(named, tails, wanted)
        least = max(0, low - len(named))
        most = None if high is None else high - len(named)
        return f'"{{" {self._listed([*named], lambda first: tails.text(least, most, first))} "}}"'

    def _pair(self, name: str, node: str) -> str:
        return f'{quoted(json_text(name))} ":" {self._writer.use(node)}'

    def _listed(self, named: list[tuple[str, bool]], free: Callable[[bool], str]) -> str:
        """Any of the properties, in their order, with commas between them."""
        first_required = next((i for i, (_, required) in enumerate(named) if required), None)
        tails = self._tails(named, free(False))
        last = len(named) - 1 if first_required is None else first_required
        options = [f"{named[i][0]} {tails(i + 1)}" for i in range(last + 1)]
        if first_required is None:
            options.append(free(True) or '""')
        return f"({' | '.join(options)})"

    def _tails(self, named: list[tuple[str, bool]], free: str) -> Callable[[int], str]:
        """What may follow after the properties before an index."""
        end = self._lark.rule(free) if free and len(named) > 1 else free
        starts = {len(named): end}
        pieces = [f'"," {text}' if required else self._lark.rule(f'("," {text})?')
                  for text, required in named]  # fmt: skip
        for start in reversed(range(0, len(named), _BLOCK)):
            stop = min(start + _BLOCK, len(named))
            starts[start] = self._lark.rule(f"{' '.join(pieces[start:stop])} {starts[stop]}")

        def tail(i: int) -> str:
            if i in starts:
                return starts[i]
            stop = min((i // _BLOCK + 1) * _BLOCK, len(named))
            return f"{' '.join(pieces[i:stop])} {starts[stop]}"

        return tail

    def _counted(self, named: list[tuple[str, bool]], free: _Free, wanted: ObjectShape) -> str:
        """The same with a minimum or maximum number: one rule for each position and count."""
        low, high = wanted.low, wanted.high
        if len(named) > _COUNTED:
            at = f"{wanted.at}.{'minProperties' if low else 'maxProperties'}"
            raise UnsupportedFieldError(
                f"{at} = {low or high}: more than {_COUNTED} properties cannot be counted; leave "
                "it out.",
                param=at,
            )
        most = max(low, 1) if high is None else high  # a higher count makes no difference
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
                rules[n, count] = self._lark.rule(text or '""')
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
                rules[i, count] = self._lark.rule(" | ".join(options)) if options else None
        return f'"{{" {rules[0, 0]} "}}"'


class _Free:
    """The properties that no schema names; they come after those that are named."""

    def __init__(
        self, writer: Writer, options: list[tuple[str, str]], distinct: int, wanted: ObjectShape
    ) -> None:
        self.options = options
        self._writer = writer
        self._bound = wanted.bound
        self._distinct: list[str] = []
        self._members: dict[int, str] = {}
        self._last = ""
        if wanted.last is not None:
            alive = [(keys, node) for keys, node in wanted.last if writer.is_alive(node)]
            self._last = writer.lark.rule(" | ".join(self._pair(k, node) for k, node in alive))
        if options and distinct > 1:
            keys = [k for k, _ in options]
            parts = writer.patterns.distinct(keys, distinct) if distinct <= _DISTINCT else None
            if parts is None:
                at = f"{wanted.at}.minProperties"
                raise UnsupportedFieldError(
                    f"{at} = {wanted.low}: that many distinct keys cannot be enforced; name them "
                    "in properties, or ask for fewer.",
                    param=at,
                )
            self._distinct = parts

    def text(self, low: int, high: int | None, first: bool) -> str:
        """From `low` to `high` of them; `first` where none comes before them."""
        if self._last and first and not low:
            most = self._bound if high is None else high
            before = f'{self._member(-1)} ","' if self.options else ""
            return f"{times(before, 0, most) if before else ''} {self._last}"
        others = self._others(low, high, first)
        return f'{others} "," {self._last}' if self._last else others

    def _others(self, low: int, high: int | None, first: bool) -> str:
        if not self.options or high == 0:
            return ""
        most = max(self._bound, low) if high is None else high
        comma = "" if first else '"," '
        if low:
            text = comma + self._differing(low)
            more = f'"," {self._member(-1)}' if most > low else ""
            return f"{text} {times(more, 0, most - low)}"
        one = self._member(-1)
        more = f'"," {one}'
        return f"({one} {times(more, 0, most - 1)})?" if first else times(more, 0, most)

    def _differing(self, count: int) -> str:
        """A number of properties with distinct keys, in any order if they are few."""
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
                options.append(self._pair(keys, node))
            self._members[slot] = self._writer.lark.rule(" | ".join(options))
        return self._members[slot]

    def _pair(self, keys: str, node: str) -> str:
        inside = self._writer.lark.terminal(keys)
        key = self._writer.lark.terminal(f'"\\"" {inside} "\\""')
        return f'{key} ":" {self._writer.use(node)}'
