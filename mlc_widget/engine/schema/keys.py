"""Keys of JSON objects that no schema names: those that match patterns, and those that differ."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

_TEXT: Final = r'/[^"\\\x00-\x1F\x7F]+/'
"""Without what would have to be escaped, so that each key has one spelling."""
_ASCII: Final = r"/[\x20\x21\x23-\x5B\x5D-\x7E]+/"
"""Where readers differ on which keys beyond ASCII match a pattern."""
_ALL_COMBINATIONS: Final = 3
"""Patterns of which every combination is looked at; of more, keys match one at most."""
_CLASSES: Final = 26
"""Classes of characters by which texts are told apart to count them."""
_ENOUGH: Final = 8
"""Texts that are counted at one place before another is tried."""
_PLACES: Final = (r"(?s:.*)%s", r"%s(?s:.*)", r"(?s:.*)%s(?s:.)", r"(?s:.)%s(?s:.*)")


class KeyPatterns:
    """Expressions of keys in llguidance's Lark, each for use within one terminal."""

    def __init__(self, satisfiable: Callable[[str], bool]) -> None:
        """Begin.

        Args:
            satisfiable: Whether some text fits a grammar.
        """
        self._satisfiable = satisfiable
        self._matches: dict[tuple[str, str], bool] = {}

    def matches(self, pattern: str, key: str) -> bool:
        """Whether a pattern is found in a key."""
        known = self._matches.get((pattern, key))
        if known is None:
            wanted = {"allOf": [{"enum": [key]}, {"type": "string", "pattern": pattern}]}
            known = self._satisfiable(f"start: %json {json.dumps(wanted)}")
            self._matches[pattern, key] = known
        return known

    @staticmethod
    def combinations(patterns: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """Which patterns a key may match at once, no pattern last."""
        most = len(patterns) if len(patterns) <= _ALL_COMBINATIONS else 1
        for n in range(1, most + 1):
            yield from itertools.combinations(patterns, n)
        yield ()

    @staticmethod
    def keys(
        matched: Sequence[str],
        patterns: Sequence[str],
        names: Sequence[str],
        limits: Sequence[Any] = (),
    ) -> str | None:
        """The keys that match some patterns, none of the others, and are no names.

        Args:
            matched: Those that they match.
            patterns: All.
            names: Of other properties.
            limits: What a schema's `propertyNames` say.

        Returns:
            An expression of their texts without quotes; None if a pattern cannot be written.
        """
        parts = [_TEXT if all(map(is_read_alike, patterns)) else _ASCII]
        for pattern in patterns:
            written = whole_pattern(pattern)
            if written is None:
                return None
            parts.append(written if pattern in matched else f"~{written}")
        for limit in limits:
            if not isinstance(limit, Mapping):
                continue
            if "pattern" in limit:
                written = whole_pattern(limit["pattern"])
                if written is None:
                    return None
                parts.append(written)
            if limit.keys() & {"minLength", "maxLength"}:
                most = limit.get("maxLength", "")
                parts.append(f"/(?s:.){{{limit.get('minLength', 0)},{most}}}/")
        if names:
            parts.append(f"~({' | '.join(json.dumps(n, ensure_ascii=False) for n in names if n)})"
                         if any(names) else _TEXT)  # fmt: skip
        return " & ".join(parts)

    def is_satisfiable(self, keys: str) -> bool:
        """Whether there are such keys."""
        return self._satisfiable(f"start: K\nK: {keys}")

    def at_least(self, texts: str) -> int:
        """So many texts an expression has, as far as is seen by one character of them; 26 at most.

        Args:
            texts: An expression for use within a terminal.
        """
        most = 0
        for place in _PLACES:
            parts = (f"/{place % _class(i, _CLASSES)}/" for i in range(_CLASSES))
            most = max(most, sum(self.is_satisfiable(f"({texts}) & {p}") for p in parts))
            if most >= _ENOUGH:
                break
        return most

    def distinct(self, options: Sequence[str], count: int) -> list[str] | None:
        """Expressions to be joined with others by ``&``, so that the keys of each differ.

        They differ by one character, at the first place of a few where every part has keys.

        Args:
            options: The keys that there are, as expressions.
            count: How many parts.
        """
        for place in _PLACES:
            parts = [f"/{place % _class(i, count)}/" for i in range(count)]
            if all(any(self.is_satisfiable(f"{o} & {p}") for o in options) for p in parts):
                return parts
        return None


def _class(index: int, count: int) -> str:
    """A class of characters; those with another index have no character of it."""
    chars = [c for c in range(0x20, 0x7F) if c % count == index and chr(c) not in '"\\']
    rest = r"\x{80}-\x{10FFFF}" if index == 0 else ""
    return "[" + "".join(f"\\x{c:02x}" for c in chars) + rest + "]"


def can_be_written(pattern: str) -> bool:
    """Whether `whole_pattern` has an expression for a pattern."""
    return whole_pattern(pattern) is not None


def whole_pattern(pattern: str) -> str | None:
    """A pattern that may be found anywhere as one that matches from end to end, in Lark."""
    made = []
    for part in _alternatives(pattern):
        head, tail = "(?s:.*)", "(?s:.*)"
        if part.startswith("^"):
            head, part = "", part[1:]
        if part.endswith("$") and not _is_escaped(part, len(part) - 1):
            tail, part = "", part[:-1]
        bare = re.sub(r"\\.|\[(?:\\.|[^\]\\])*\]", "", part, flags=re.DOTALL)
        if "^" in bare or "$" in bare or r"\b" in pattern or r"\B" in pattern:
            return None
        made.append(f"{head}({_ascii(part)}){tail}")
    return f"/{'|'.join(made)}/"


def is_read_alike(pattern: str) -> bool:
    r"""Whether all readers have the same texts match: of \d, some take other scripts' digits."""
    return not re.search(r"\\[dDwWsSpPbB]|\(\?", pattern)


def _alternatives(pattern: str) -> list[str]:
    parts, depth, start, i, in_class = [], 0, 0, 0, False
    while i < len(pattern):
        char = pattern[i]
        if char == "\\":
            i += 1
        elif in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char == "|" and depth == 0:
            parts.append(pattern[start:i])
            start = i + 1
        i += 1
    return [*parts, pattern[start:]]


def _is_escaped(text: str, at: int) -> bool:
    before = text[:at]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _ascii(part: str) -> str:
    r"""As Lark has it between slashes, with \d and \w for ASCII only, as JSON Schema has them."""
    made, in_class, i = "", False, 0
    while i < len(part):
        pair = part[i : i + 2]
        if pair[0] == "\\" and len(pair) == 2:
            inner = {"\\d": "0-9", "\\w": "0-9A-Za-z_"}.get(pair)
            made += pair if inner is None else (inner if in_class else f"[{inner}]")
            i += 2
            continue
        if pair[0] == "[":
            in_class = True
        elif pair[0] == "]":
            in_class = False
        made += {"/": r"\/", "\n": r"\n"}.get(pair[0], pair[0])
        i += 1
    return made
