"""Reads server-sent events out of pieces of bytes, within bounds."""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import Final

from mlc_widget.api.errors import ProtocolError

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
_FIELDS: Final = (b"data:", b"error:")
"""Those that are read; older versions of llama.cpp's server send errors in a field of their own."""


class EventReader:
    """Puts events together; comments and fields that are not for us are passed over."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._data: list[bytes] = []
        self._size = 0
        self._at_start = True

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the events that end in this piece.

        Raises:
            ProtocolError: An event is too large.
        """
        self._size += len(piece)
        *lines, rest = piece.split(b"\n")
        found: list[bytes] = []
        if lines:
            lines[0] = b"".join(self._rest) + lines[0]
            self._rest = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if self._at_start:
                line, self._at_start = line.removeprefix(BOM_UTF8), False
            if line.startswith(_FIELDS):
                self._data.append(line.partition(b":")[2].removeprefix(b" "))
            elif not line:
                if self._data:
                    found.append(b"\n".join(self._data))
                self._data, self._size = [], 0
        if rest:
            self._rest.append(rest)
        if self._size > MAX_EVENT_BYTES:
            raise ProtocolError(
                f"The server sent an event of more than {MAX_EVENT_BYTES} bytes, which no answer "
                "has."
            )
        return found
