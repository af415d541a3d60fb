"""Numbers the messages to the worker, sends them one by one, and remembers the recent ones."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from mlc_widget.api.errors import MLCEngineError, ProtocolError
from mlc_widget.api.json_size import TooLargeError, check_json_size
from mlc_widget.protocol.messages import MAX_MESSAGE_BYTES, WorkerRequest

logger = logging.getLogger(__name__)

_REMEMBERED: Final = 8192
"""Recent messages that can be reported as lost; the worker gives up far fewer at once."""

_UNNUMBERED: Final = ("hello", "keepAlive")
"""What is repeated anyway, so that it does not matter if one is lost."""

_TIMES: Final = 3
"""How often a message that may be repeated is sent."""

Failed: TypeAlias = Callable[[MLCEngineError], object]


@dataclass(slots=True)
class _Posted:
    """A message that was posted, with who gets the error if it is lost or cannot be sent.

    `request` and `failed` are None once the message was sent, unless it is sent again if it is
    lost: many messages are remembered, and would keep their streams alive.
    """

    kind: str
    waiter: str
    failed: Failed | None
    request: WorkerRequest | None
    repeats: int


class Outbox:
    """Numbers messages and sends them, in the order in which they are posted.

    A message that is posted while another is being sent waits for it. That happens: packing a
    message may start a garbage collection, which may run anybody's finalisers.

    Args:
        pack: Makes the frames of comm data.
        send: Sends frames, all or none.
    """

    def __init__(
        self,
        pack: Callable[[Mapping[str, Any]], list[bytes]],
        send: Callable[[list[bytes]], object],
    ) -> None:
        self._pack = pack
        self._send = send
        self._posted: deque[_Posted] = deque()
        self._sending = False
        self._number = 0  # of the next numbered message
        self._sent: OrderedDict[int, _Posted] = OrderedDict()

    def post(
        self, request: WorkerRequest, waiter: str, failed: Failed, *, resend: bool = False
    ) -> None:
        """Send a message now or, from within this call for another one, right after that.

        Args:
            request: What to send.
            waiter: Who gets an error if it is lost; see `lost`.
            failed: Called with the error if it cannot be sent.
            resend: Whether to send it again if it is lost. It keeps the message meanwhile.
        """
        repeats = _TIMES - 1 if resend else 0
        self._posted.append(_Posted(request.kind, waiter, failed, request, repeats))
        self._send_posted()

    def _send_posted(self) -> None:
        if self._sending:
            return
        self._sending = True
        try:
            while self._posted:
                posted = self._posted.popleft()
                try:
                    self._send_one(posted)
                except MLCEngineError as error:
                    if posted.failed is not None:
                        posted.failed(error)
        finally:
            self._sending = False

    def _send_one(self, posted: _Posted) -> None:
        request = posted.request
        assert request is not None
        number = None if request.kind in _UNNUMBERED else self._number
        try:
            check_json_size(request.content, MAX_MESSAGE_BYTES)
            frames = self._pack(request.encode(number))
        except TooLargeError as error:
            raise ProtocolError(
                f"{request.kind}: its content is too large for the worker: {error}."
            ) from None
        except (TypeError, ValueError, RecursionError) as error:
            raise ProtocolError(
                f"{request.kind}: its content is not plain JSON ({error})."
            ) from error
        size = sum(map(len, frames))
        if size > MAX_MESSAGE_BYTES:
            raise ProtocolError(
                f"This request is {size} bytes; the worker accepts at most {MAX_MESSAGE_BYTES}."
            )
        self._send(frames)
        if number is not None:
            self._number += 1
            self._sent[number] = posted
            if not posted.repeats:
                posted.request = posted.failed = None
            if len(self._sent) > _REMEMBERED:
                self._sent.popitem(last=False)

    def lost(self, first: int, last: int) -> list[tuple[str, ProtocolError]]:
        """The waiters of messages that the worker has given up waiting for, each with its error.

        Those that may be resent are resent, and have no error.
        """
        logger.error("messages %d to %d to the worker were lost", first, last)
        lost = [n for n in self._sent if first <= n <= last]
        errors = []
        for number, posted in [(n, self._sent.pop(n)) for n in lost]:
            if posted.repeats:
                posted.repeats -= 1
                self._posted.append(posted)
            else:
                text = f"Message {number} to the worker, {posted.kind}, was lost: try again."
                errors.append((posted.waiter, ProtocolError(text)))
        self._send_posted()
        return errors
