"""Reads the values of a GGUF file's header, one after the other."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from mlc_widget.api.errors import ModelFormatError

_MAX_STRING: Final = 1 << 24
_MAX_ITEMS: Final = 1 << 22
"""The maximum number of items in an array; the largest vocabularies have some 2**18 tokens, and
twice as many merges."""
_WINDOW: Final = 1 << 20

_SCALARS: Final = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?",
    10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_LENGTH: Final = struct.Struct("<Q")
_STRING: Final = 8
_ARRAY: Final = 9


class HeaderReader:
    """Reads values one after the other from the beginning of a file.

    Args:
        read_at: Reads bytes at an offset into memory, and returns their number.
        size: The number of bytes that the header may have.
        wrong: The error that says what is wrong with the file; every method may raise it.
    """

    def __init__(
        self,
        read_at: Callable[[memoryview, int], int],
        size: int,
        wrong: Callable[[str], ModelFormatError],
    ) -> None:
        self._read_at, self._size, self._wrong = read_at, size, wrong
        self._window, self._start = b"", 0
        self.at = 0

    def take(self, count: int) -> bytes:
        """Read the next `count` bytes."""
        if count > self._size - self.at:
            raise self._wrong(
                f"its header goes on past byte {self._size}, which is the file's end or more than "
                "any model needs"
            )
        inside = self.at - self._start
        if inside + count > len(self._window):
            self._window = self._read(self.at, max(count, min(_WINDOW, self._size - self.at)))
            self._start, inside = self.at, 0
        self.at += count
        return self._window[inside : inside + count]

    def _read(self, at: int, count: int) -> bytes:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            got = self._read_at(view, at)
            if got == 0:
                raise self._wrong("it became shorter while it was read")
            view, at = view[got:], at + got
        return bytes(data)

    def number(self, dtype: str) -> int:
        """A scalar."""
        kind = np.dtype(dtype)
        return np.frombuffer(self.take(kind.itemsize), kind)[0].item()  # type: ignore[no-any-return]

    def bounded(self, what: str, limit: int) -> int:
        """A count."""
        count = self.number("<u8")
        if count > limit:
            raise self._wrong(f"it claims {count} {what}; at most {limit} are allowed")
        return count

    def string(self, limit: int) -> str:
        """A string."""
        (length,) = struct.unpack("<Q", self.take(8))
        if length > limit:
            raise self._wrong(f"it claims a string of {length} bytes; at most {limit} are allowed")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._not_text(error) from None

    def _strings(self, count: int) -> list[str]:
        """Many strings: vocabularies have some 100,000, most of which lie whole in the window."""
        found: list[str] = []
        while len(found) < count:
            found.append(self.string(_MAX_STRING))
            window, inside = self._window, self.at - self._start
            end, length_at = len(window), _LENGTH.unpack_from
            try:
                while len(found) < count and inside + 8 <= end:
                    stop = inside + 8 + length_at(window, inside)[0]
                    if stop > end:
                        break
                    found.append(window[inside + 8 : stop].decode())
                    inside = stop
            except UnicodeDecodeError as error:
                raise self._not_text(error) from None
            self.at = self._start + inside
        return found

    def _not_text(self, error: UnicodeDecodeError) -> ModelFormatError:
        return self._wrong(f"a string is not UTF-8 ({error.reason})")

    def value(self) -> Any:
        """Read a metadata value, which follows its type."""
        number = self.number("<u4")
        if number == _STRING:
            return self.string(_MAX_STRING)
        if number == _ARRAY:
            return self._array()
        return self._scalar(number)

    def _dtype(self, number: int) -> str:
        if number not in _SCALARS:
            raise self._wrong(f"a metadata value has the type {number}")
        return _SCALARS[number]

    def _scalar(self, number: int) -> Any:
        dtype = self._dtype(number)
        if dtype == "?":
            return self.take(1) != b"\0"
        return self.number(dtype)

    def _array(self) -> Any:
        number = self.number("<u4")
        count = self.bounded("items in an array", _MAX_ITEMS)
        if number == _ARRAY:
            raise self._wrong("a metadata value is an array of arrays")
        if number == _STRING:
            if count * 8 > self._size - self.at:  # each has at least a length
                raise self._wrong(f"it claims {count} strings, which do not fit into it")
            return self._strings(count)
        dtype = np.dtype(self._dtype(number))
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)
