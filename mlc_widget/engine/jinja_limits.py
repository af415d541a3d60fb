"""What limits a chat template: its time, and the size of everything that it makes.

A short template can make huge values: it can double a text, a number or a list in each round of a
loop. So the size of each value is checked as it is made, and
the time between any two operations whose number or length a template may choose.
"""

from __future__ import annotations

import re
import string
import time
from collections.abc import Iterable, Iterator, Mapping, MappingView
from types import GeneratorType
from typing import Any, Final

MAX_OUTPUT: Final = 1 << 24
"""The maximum size of any value that a template makes: characters, and `_ITEM` for each item."""
MAX_TOTAL: Final = 1 << 28
"""The maximum size of all of them together, as a template may keep them."""
MAX_SECONDS: Final = 5.0
"""The maximum time that rendering may take; usually it takes about a millisecond."""

MAX_DEPTH: Final = 500
"""How deep lists and mappings may be nested: Python computes a tuple's hash by recursion in C."""

_ITEM: Final = 16
_MOST_BITS: Final = 1 << 14
"""The length of an integer, which takes longer to multiply the longer it is."""
_WIDEST: Final = 999
"""Characters that a format may ask for."""
_MOST_COMPARISONS: Final = 1 << 26
"""Characters that one search from the end may compare; Python compares each with each."""
_BRACKET: Final = re.compile(r"[()]")
_PERCENT_SPEC: Final = re.compile(r"([^a-zA-Z%]*)[hlL]?")


class TooMuchError(Exception):
    """The template takes too long, or makes a value that is too large."""


class Guard:
    """The limits of one rendering."""

    def __init__(self) -> None:
        self._end = time.monotonic() + MAX_SECONDS
        self._total = 0
        # With the value, so that its id stays its own.
        self._sizes: dict[int, tuple[Any, int, int]] = {}

    def step(self) -> None:
        """Check the time."""
        if time.monotonic() > self._end:
            raise TooMuchError(f"it took longer than {MAX_SECONDS:g} s")

    def over(self, items: Iterable[Any]) -> Iterator[Any]:
        """`items`, with a step at each."""
        for item in items:
            self.step()
            yield item

    def made(self, value: Any) -> Any:
        """Check a value that the template has made, and return it.

        A generator, which has not made its items yet, is returned with a step at each.
        """
        self.step()
        if isinstance(value, GeneratorType):
            return self.over(value)
        bounded(self.size(value))
        self._total += len(value) * (1 if isinstance(value, str) else _ITEM) if _sized(value) else 0
        if self._total > MAX_TOTAL:
            raise TooMuchError(f"it makes values of more than {MAX_TOTAL} characters together")
        return value

    def size(self, value: Any) -> int:
        """The size of a value written out, where what occurs twice counts twice."""
        return self._measured(value)[0]

    def _measured(self, value: Any) -> tuple[int, int]:
        """The size of a value and its depth, which is 0 without items."""
        if isinstance(value, str):
            return len(value), 0
        if isinstance(value, int):
            if value.bit_length() > _MOST_BITS:
                raise TooMuchError("it computes with a number of thousands of digits")
            return 1, 0
        if not _sized(value):
            return 1, 0
        known = self._sizes.get(id(value))
        if known is not None:
            return known[1:]
        size = depth = 0
        for item in (*value.keys(), *value.values()) if isinstance(value, Mapping) else value:
            item_size, item_depth = self._measured(item)
            size += _ITEM + item_size
            depth = max(depth, item_depth)
        if depth >= MAX_DEPTH:
            raise TooMuchError(f"it nests lists or mappings more than {MAX_DEPTH} deep")
        self._sizes[id(value)] = value, size, depth + 1
        return size, depth + 1


def _sized(value: Any) -> bool:
    return isinstance(value, str | list | tuple | Mapping | MappingView)


def bounded(size: int) -> None:
    """Refuse to make a value of this size.

    Raises:
        TooMuchError: It would be too large.
    """
    if size > MAX_OUTPUT:
        raise TooMuchError(f"it produces a value of {size} characters")


def times(left: Any, right: Any) -> None:
    """Check the operands of ``left * right``, one of which may be a text or a list."""
    for value, count in ((left, right), (right, left)):
        if isinstance(value, str | list | tuple) and isinstance(count, int):
            bounded((len(value) if isinstance(value, str) else _ITEM * len(value)) * count)


def pieces(text: str, by: str | None) -> None:
    """Check the number of pieces into which ``text.split(by)`` would cut a text."""
    bounded(len(text) + _ITEM * (text.count(by) if by else len(text) // 2))


def replace(text: str, old: str, new: str, count: int | None = None) -> str:
    """``text.replace(…)``, of a size that is checked before."""
    text, old, new = str(text), str(old), str(new)
    bounded(len(text) + (text.count(old) + (0 if old else 1)) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def check_search(text: str, by: Any) -> None:
    """Check a search from the end of a text, or one for each of many characters.

    Python takes time by the product of the two lengths for ``text.rfind(by)``, ``rindex``,
    ``rpartition`` and ``rsplit``, and for ``text.strip(by)``, ``lstrip`` and ``rstrip``.
    """
    if isinstance(by, str) and len(text) * len(by) > _MOST_COMPARISONS:
        raise TooMuchError(f"it searches {len(text)} characters for {len(by)} characters")


def check_format(text: str) -> None:
    """Refuse a text for `str.format` that has many fields, or asks for wide ones.

    Raises:
        TooMuchError: It does.
    """
    bounded(16 * len(text))  # as each field takes time
    try:
        specs = [spec for _, field, spec, _ in string.Formatter().parse(text) if field is not None]
    except ValueError:
        return  # the call itself will fail
    _check_specs([spec or "" for spec in specs])


def percent(text: str, values: Any) -> Any:
    """``text % values``, of a size that is checked before."""
    bounded(16 * len(text))  # as each field takes time
    specs = list(_percent_specs(str(text)))
    _check_specs(specs)
    given = values.values() if isinstance(values, Mapping) else values
    given = given if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    longest = max((len(str(value)) for value in given), default=0)
    bounded(len(text) + len(specs) * (longest + _WIDEST))
    return text % values


def _percent_specs(text: str) -> Iterator[str]:
    """The flags, width and precision of each field in a text for the operator ``%``."""
    at = 0
    while (at := text.find("%", at) + 1) > 0:
        if text.startswith("(", at):
            depth = 0
            for bracket in _BRACKET.finditer(text, at):  # a key may contain pairs of them
                depth += 1 if bracket[0] == "(" else -1
                if depth == 0:
                    at = bracket.end()
                    break
            else:
                return  # an open key, which the operator refuses
        spec = _PERCENT_SPEC.match(text, at)
        assert spec is not None  # it matches an empty text, too
        yield spec[1]
        at = spec.end() + 1


def _check_specs(specs: list[str]) -> None:
    numbers = [digits.lstrip("0") for spec in specs for digits in re.findall(r"\d+", spec)]
    if any(len(number) > len(str(_WIDEST)) for number in numbers) or any(
        c in spec for spec in specs for c in "*{"
    ):
        raise TooMuchError("it formats with a width that is unknown or too large")
