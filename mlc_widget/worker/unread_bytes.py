"""Counts the bytes that a client has been sent and has not read yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from jupyter_client.session import Session

from mlc_widget.api.requests import JSONDict
from mlc_widget.protocol.messages import STREAM_BYTES, STREAM_SHARE_BYTES

MAX_CLIENT_BYTES: Final = 64 * 1024 * 1024
"""Unread bytes of one client, over all its streams, beyond which each has only its share."""
_pack: Final[Callable[[Any], bytes]] = Session.pack.default_value
"""Serializes a message for the wire, with orjson where jupyter_client depends on it."""


class ClientBytes:
    """The unread bytes of one client."""

    def __init__(self) -> None:
        self.total = 0
        self._changed: set[asyncio.Event] = set()

    def stream(self, changed: asyncio.Event) -> StreamBytes:
        """Count another stream; `changed` is set whenever more may be sent again."""
        self._changed.add(changed)
        return StreamBytes(self, changed)

    def remove(self, nbytes: int, closed: asyncio.Event | None = None) -> None:
        """Count less, as the client has read it, or has left the stream of `closed`."""
        self.total -= nbytes
        if closed is not None:
            self._changed.discard(closed)
        if nbytes:
            for changed in self._changed:
                changed.set()


class StreamBytes:
    """The unread bytes of one pushed stream; made by `ClientBytes.stream`.

    The limits are exceeded by one chunk at most, so that a chunk of any size can be sent.
    """

    def __init__(self, client: ClientBytes, changed: asyncio.Event) -> None:
        self._client = client
        self._event = changed
        self._sizes: deque[int] = deque()  # of the chunks that were sent and not read
        self.total = 0

    @property
    def may_grow(self) -> bool:
        """Whether another chunk may be sent."""
        return self.within_share or (
            self.total < STREAM_BYTES and self._client.total < MAX_CLIENT_BYTES
        )

    @property
    def within_share(self) -> bool:
        """Whether it is so little that other streams of the client do not matter."""
        return self.total < STREAM_SHARE_BYTES

    def add(self, chunk: JSONDict) -> None:
        """Count a chunk, which is about to be sent."""
        size = len(_pack(chunk))
        self._sizes.append(size)
        self.total += size
        self._client.total += size

    def read(self, chunks: int) -> None:
        """The client has read the oldest `chunks` chunks."""
        nbytes = sum(self._sizes.popleft() for _ in range(min(chunks, len(self._sizes))))
        self.total -= nbytes
        self._client.remove(nbytes)

    def close(self) -> None:
        """Count the stream no more."""
        self._client.remove(self.total, self._event)
        self._sizes.clear()
        self.total = 0
