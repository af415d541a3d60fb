"""Lists the texts that a regular expression matches, if they are few."""

from __future__ import annotations

import functools
from typing import Final

_TEXTS: Final = 64
_PLAIN_ESCAPES: Final = frozenset(r"\.^$|?*+()[]{}/-_")


class _NotFinite(Exception):
    pass


@functools.lru_cache(maxsize=1024)
def matching_texts(pattern: str) -> tuple[str, ...] | None:
    """All texts that match a pattern such as ``^(red|green)[1-3]$``; None if they are not few.

    Only simple patterns that begin with ``^`` and end with ``$`` are understood: None does not
    prove that there are many.
    """
    if not (pattern.startswith("^") and pattern.endswith("$")) or len(pattern) > 2000:
        return None
    try:
        reader = _Reader(pattern[1:-1])
        texts = reader.sequence()
        if reader.at < len(reader.text):  # as in ^a|b$, which does not match whole texts
            return None
    except _NotFinite:
        return None
    return tuple(dict.fromkeys(texts))


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self._depth = 0

    def _next(self) -> str:
        return self.text[self.at : self.at + 1]

    def _take(self, text: str) -> bool:
        if self.text.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def _choice(self) -> list[str]:
        self._depth += 1
        if self._depth > 20:
            raise _NotFinite
        found = self.sequence()
        while self._take("|"):
            found = _few(found + self.sequence())
        self._depth -= 1
        return found

    def sequence(self) -> list[str]:
        found = [""]
        while self._next() not in ("", "|", ")"):
            piece = self._repeated(self._piece())
            found = _few([a + b for a in found[: _TEXTS + 1] for b in piece[: _TEXTS + 1]])
        return found

    def _piece(self) -> list[str]:
        if self._take("("):
            if self._take("?") and not self._take(":"):
                raise _NotFinite
            found = self._choice()
            if not self._take(")"):
                raise _NotFinite
            return found
        if self._take("["):
            return self._class()
        char = self._next()
        if char in ".*+?{}^$":
            raise _NotFinite
        return [self._char()]

    def _char(self) -> str:
        char = self._next()
        self.at += 1
        if char == "\\":
            char = self._next()
            self.at += 1
            if char not in _PLAIN_ESCAPES:
                raise _NotFinite
        return char

    def _class(self) -> list[str]:
        found: list[str] = []
        while not self._take("]"):
            if self._next() in ("", "^", "["):
                raise _NotFinite
            first = last = self._char()
            if self.text[self.at : self.at + 1] == "-" and self.text[self.at + 1 :][:1] != "]":
                self.at += 1
                last = self._char()
            if ord(last) - ord(first) > _TEXTS:
                raise _NotFinite
            found += [chr(c) for c in range(ord(first), ord(last) + 1)]
        return _few(found)

    def _repeated(self, piece: list[str]) -> list[str]:
        if self._take("?"):
            return ["", *piece]
        if self._next() in ("*", "+"):
            raise _NotFinite
        if not self._take("{"):
            return piece
        end = self.text.find("}", self.at)
        low, _, high = self.text[self.at : end].partition(",")
        if end < 0 or not low.isdecimal() or len(low) > 2:
            raise _NotFinite
        high = high if "," in self.text[self.at : end] else low
        if not high.isdecimal() or len(high) > 2:
            raise _NotFinite
        self.at = end + 1
        found, power = [], [""]
        for n in range(int(high) + 1):
            if n >= int(low):
                found += power
            power = _few([a + b for a in power for b in piece])
        return _few(found)


def _few(texts: list[str]) -> list[str]:
    if len(texts) > _TEXTS:
        raise _NotFinite
    return texts
