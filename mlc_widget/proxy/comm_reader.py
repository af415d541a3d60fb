"""Reads the Jupyter messages of a comm, at a part of the cost of jupyter_client's own reader.

`jupyter_client.session.Session.deserialize` parses all dates of a message's headers, which takes
several times as long as all else that a stream's message costs a notebook. A comm's messages need
no headers but their type. They are checked as there: signed, and never seen before.
"""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

_REMEMBERED: Final = 65536
"""Signatures, as many as jupyter_client's sessions remember."""


class CommReader:
    """Reads what comes for one comm.

    Args:
        session: A `jupyter_client.session.Session`, which has the key of the signatures.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._seen: set[bytes] = set()
        self._in_order: deque[bytes] = deque()

    def read(self, frames: list[bytes]) -> tuple[str, Mapping[str, Any]]:
        """The type and the content of a message.

        Raises:
            ValueError: it is no signed message, or came before.
        """
        session = self._session
        _, parts = session.feed_identities(frames)
        signature, header, parent, metadata, content, *_ = parts
        if session.auth is not None:
            self._check(signature, [header, parent, metadata, content])
        return str(session.unpack(header)["msg_type"]), session.unpack(content)

    def _check(self, signature: bytes, signed: list[bytes]) -> None:
        if not hmac.compare_digest(signature, self._session.sign(signed)):
            raise ValueError("a message whose signature is missing or wrong")
        if signature in self._seen:
            raise ValueError("a message that came before")
        self._seen.add(signature)
        self._in_order.append(signature)
        if len(self._in_order) > _REMEMBERED:
            self._seen.discard(self._in_order.popleft())
