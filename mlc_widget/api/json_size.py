"""Bounds on values before they become JSON.

A list may contain the same list many times, and that one another list: the JSON of a few objects
may take gigabytes. So values are measured first, each list and mapping only once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

_NUMBERS: Final = {int, float}
_LEAVES: Final = {str, int, float, bool, type(None)}


class TooDeepError(ValueError):
    """A value is nested deeper than allowed."""


class TooLargeError(ValueError):
    """A value's JSON is longer than allowed."""


class _Measured:
    """A list or mapping, and how much of it was measured.

    Attributes:
        node: The list or mapping; kept, so that no other object gets its id.
        size: The bytes of its JSON, without the items that `rest` still gives.
        levels: The number of its levels that have been found so far.
        rest: Gives the items that have not been measured.
        complete: Whether all items have been measured.
    """

    __slots__ = ("complete", "levels", "node", "rest", "size")

    def __init__(self, node: Any, largest: int) -> None:
        self.node = node
        self.levels, self.complete = 1, False
        # The brackets, and a comma and a space after each item but the last.
        self.size = max(2, 2 * len(node))
        items: Iterable[Any] = node
        if isinstance(node, Mapping):
            self.size += 2 * len(node) + sum(map(_size, node))  # a colon and a space
            items = node.values()
        elif self.size <= largest and _NUMBERS.issuperset(map(type, node)):  # such as token ids
            self.size += _total(node)
            items = ()
        self.rest: Iterator[Any] = iter(items)

    def add(self, item: _Measured) -> None:
        """Count an item that has been measured."""
        self.size += item.size
        self.levels = max(self.levels, item.levels + 1)


def check_json_size(value: Any, largest: int, deepest: int | None = None) -> None:
    """Check that the JSON of a value is of bounded size and depth.

    Escapes are not counted, and the size may be a little too small if that is faster to compute.
    A value that JSON cannot represent counts as one byte; encoding it as JSON refuses it later.

    Args:
        value: Lists, tuples and mappings of plain values.
        largest: The maximum size of its JSON in UTF-8, in bytes.
        deepest: The maximum depth of nested lists and mappings; None for no limit.

    Raises:
        TooLargeError: It is longer, or contains itself.
        TooDeepError: It is deeper, or contains itself.
    """
    if not _nests(value):
        if _size(value) > largest:
            raise TooLargeError(f"it takes more than {largest} bytes")
        return
    within = [_Measured(value, largest)]  # from the outermost to the one that is being measured
    known = {id(value): within[0]}
    while within:
        here = within[-1]
        item = next(here.rest, _END)
        levels = 0
        if item is _END:
            within.pop()
            here.complete = True
            if within:
                within[-1].add(here)
                here = within[-1]
        elif not _nests(item):
            here.size += _size(item)
        elif (found := known.get(id(item))) is None:
            here = known[id(item)] = _Measured(item, largest)
            within.append(here)
        elif found.complete:
            here.add(found)
            levels = found.levels
        elif deepest is not None:
            raise TooDeepError("it contains itself")
        else:
            raise TooLargeError("it contains itself")
        if deepest is not None and len(within) + levels > deepest:
            raise TooDeepError(f"it has more than {deepest} levels")
        if here.size > largest:
            raise TooLargeError(f"it takes more than {largest} bytes")


_END: Final = object()


def _nests(value: Any) -> bool:
    return type(value) not in _LEAVES and isinstance(value, Mapping | list | tuple)


def _size(leaf: Any) -> int:
    if isinstance(leaf, str):
        return 2 + (len(leaf) if leaf.isascii() else len(leaf.encode("utf-8", "surrogatepass")))
    if isinstance(leaf, bool) or leaf is None:
        return 4
    return _total([leaf]) if type(leaf) in _NUMBERS else 1


def _total(numbers: Iterable[Any]) -> int:
    """Characters of ints and floats; of an int, which may be very long, a lower bound."""
    return sum(
        max(n.bit_length() - 1, 0) * 3 // 10 + 1 if type(n) is int else len(repr(n))
        for n in numbers
    )
