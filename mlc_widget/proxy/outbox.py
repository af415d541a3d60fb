"""Numbers the messages to the worker, sends them one by one, and remembers the recent ones."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from mlc_widget.api.errors import MLCEngineError, ProtocolError
from mlc_widget.api.json_size import TooLargeError, check_json_size
from mlc_widget.protocol.messages import MAX_MESSAGE_BYTES, WorkerRequest

logger = logging.getLogger(__name__)

_REMEMBERED: Final = 8192
"""Recent messages that can be reported as lost; the worker gives up far fewer at once."""

Failed: TypeAlias = Callable[[MLCEngineError], object]


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
        self._posted: deque[tuple[WorkerRequest, str, Failed]] = deque()
        self._sending = False
        self._number = 0  # of the next numbered message
        self._sent: OrderedDict[int, tuple[str, str]] = OrderedDict()  # kind and waiter

    def post(self, request: WorkerRequest, waiter: str, failed: Failed) -> None:
        """Send a message now or, from within this call for another one, right after that.

        Args:
            request: What to send.
            waiter: Who gets an error if it is lost; see `lost`.
            failed: Called with the error if it cannot be sent.
        """
        self._posted.append((request, waiter, failed))
        if self._sending:
            return
        self._sending = True
        try:
            while self._posted:
                request, waiter, failed = self._posted.popleft()
                try:
                    self._send_one(request, waiter)
                except MLCEngineError as error:
                    failed(error)
        finally:
            self._sending = False

    def _send_one(self, request: WorkerRequest, waiter: str) -> None:
        # What says hello comes before the order: it is repeated until it is heard.
        number = None if request.kind == "hello" else self._number
        try:
            check_json_size(request.content, MAX_MESSAGE_BYTES)
            frames = self._pack(request.encode(number))
        except TooLargeError as error:
            raise ProtocolError(
                f"{request.kind}: its content takes {error}, which are all that the worker accepts."
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
            self._sent[number] = (request.kind, waiter)
            if len(self._sent) > _REMEMBERED:
                self._sent.popitem(last=False)

    def lost(self, first: int, last: int) -> list[tuple[str, ProtocolError]]:
        """The waiters of messages that the worker has given up waiting for, each with its error."""
        logger.error("messages %d to %d to the worker were lost", first, last)
        lost = [n for n in self._sent if first <= n <= last]
        found = [(n, *self._sent.pop(n)) for n in lost]
        return [
            (waiter, ProtocolError(f"Message {n} to the worker, {kind}, was lost: try again."))
            for n, kind, waiter in found
        ]
