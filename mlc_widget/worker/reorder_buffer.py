"""Restores the order in which messages were sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

from mlc_widget.api.errors import ProtocolError
from mlc_widget.protocol.messages import MAX_MESSAGE_BYTES

PATIENCE_S: Final = 5.0
"""Seconds for which a missing message is waited for."""
_LOOKS: Final = 10
"""Looks within `PATIENCE_S`. While the loop is held up no messages come in, and at most one look
passes: so a loop that was blocked for long does not give up on messages that have arrived."""
MAX_EARLY: Final = 1024
"""Messages that may wait for an earlier one."""
MAX_EARLY_BYTES: Final = 2 * MAX_MESSAGE_BYTES


class ReorderBuffer:
    """Delivers numbered messages in the order of their numbers, from 0.

    The sockets keep the order, but ipykernel (7.4) may let a comm message that comes while another
    is being dispatched overtake it. Such a gap closes at once. One that does not, within
    `PATIENCE_S` or before too much waits behind it, is given up: the client is told which numbers
    are missing, and what came after them goes on.

    Args:
        deliver: Gets the messages.
        lost: Gets the first and the last number of those that are given up.
    """

    def __init__(self, deliver: Callable[[Any], None], lost: Callable[[int, int], None]) -> None:
        self._deliver = deliver
        self._lost = lost
        self._next = 0
        self._early: dict[int, tuple[Any, int]] = {}
        self._early_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def take(self, number: int, message: Any) -> None:
        """Take a message that has arrived.

        Raises:
            ProtocolError: a message with its number came before, or was given up.
        """
        if number < self._next or number in self._early:
            raise ProtocolError(
                f"Message {number} arrived twice or too late: message {self._next} was expected.",
                code="out_of_order",
            )
        if number == self._next:
            self._next += 1
            self._deliver(message)
        else:
            size = _size(message)
            self._early[number] = (message, size)
            self._early_bytes += size
        self._drain()
        while len(self._early) > MAX_EARLY or self._early_bytes > MAX_EARLY_BYTES:
            self._give_up()
        self._watch()

    def _drain(self) -> None:
        while self._next in self._early:
            message, size = self._early.pop(self._next)
            self._early_bytes -= size
            self._next += 1
            self._deliver(message)

    def _give_up(self) -> None:
        first, self._next = self._next, min(self._early)
        self._lost(first, self._next - 1)
        self._drain()

    def _watch(self) -> None:
        """Start or stop the timer for the number that is next."""
        if not self._early:
            self.close()
        elif self._timer is None:
            self._look(self._next, _LOOKS)

    def _look(self, awaited: int, looks: int) -> None:
        if not self._early:
            self._timer = None
            return
        if self._next != awaited:  # another gap
            awaited, looks = self._next, _LOOKS
        if looks == 0:
            self._give_up()
            self._timer = None
            self._watch()
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(PATIENCE_S / _LOOKS, self._look, awaited, looks - 1)

    def close(self) -> None:
        """Stop the timer: the client is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _size(message: Any) -> int:
    """The approximate size of a message, in bytes."""
    try:
        return len(json.dumps(message, default=str))
    except (ValueError, RecursionError):
        return MAX_MESSAGE_BYTES
