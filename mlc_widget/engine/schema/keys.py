"""Expressions for object keys that no schema names: by patterns, and distinct from each other."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

_TEXT: Final = r'/[^"\\\x00-\x1F\x7F]+/'
"""Text without characters that must be escaped, so that each key has one spelling."""
_ASCII: Final = r"/[\x20\x21\x23-\x5B\x5D-\x7E]+/"
"""ASCII only, for patterns whose meaning beyond ASCII depends on the reader."""
_ALL_COMBINATIONS: Final = 3
"""The most patterns of which every combination is tried; of more, keys match one at most."""
_CLASSES: Final = 26
"""The number of classes of characters by which texts are counted."""
_ENOUGH: Final = 8
"""If this many texts are counted at one place, no other place is tried."""
_PLACES: Final = (r"(?s:.*)%s", r"%s(?s:.*)", r"(?s:.*)%s(?s:.)", r"(?s:.)%s(?s:.*)")


class KeyPatterns:
    """Makes expressions for keys in llguidance's Lark, each for use within one terminal."""

    def __init__(self, satisfiable: Callable[[str], bool]) -> None:
        """Set up.

        Args:
            satisfiable: Says whether any text matches a grammar.
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
        """The combinations of patterns that a key may match at once; the last one is empty."""
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
        """The keys that match some patterns and no others, and are not among some names.

        Args:
            matched: The patterns that they match.
            patterns: All patterns.
            names: The names of other properties.
            limits: The values of `propertyNames`.

        Returns:
            An expression for the keys without quotes; None if a pattern cannot be written.
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
        """A lower bound of the number of texts that an expression matches, at most 26.

        Texts are told apart by one of their characters.

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
        """Expressions to be joined with others by ``&``, so that the keys of each are distinct.

        They differ in one character, at the first of a few places where every part has keys.

        Args:
            options: The keys that there are, as expressions.
            count: The number of parts.
        """
        for place in _PLACES:
            parts = [f"/{place % _class(i, count)}/" for i in range(count)]
            if all(any(self.is_satisfiable(f"{o} & {p}") for o in options) for p in parts):
                return parts
        return None


def _class(index: int, count: int) -> str:
    """A class of characters; classes with different indexes are disjoint."""
    chars = [c for c in range(0x20, 0x7F) if c % count == index and chr(c) not in '"\\']
    rest = r"\x{80}-\x{10FFFF}" if index == 0 else ""
    return "[" + "".join(f"\\x{c:02x}" for c in chars) + rest + "]"


def can_be_written(pattern: str) -> bool:
    """Whether `whole_pattern` has an expression for a pattern."""
    return whole_pattern(pattern) is not None


def whole_pattern(pattern: str) -> str | None:
    """Rewrite a pattern that may match anywhere as one that matches whole texts, in Lark."""
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
    r"""The text between Lark's slashes, with \d and \w for ASCII only, as in JSON Schema."""
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
