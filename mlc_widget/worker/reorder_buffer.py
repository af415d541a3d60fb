"""Messages in the order in which they were sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class ReorderBuffer:
    """Passes numbered messages on by their numbers, 0 first.

    The sockets keep the order, but ipykernel (7.4) may let a comm message that comes while another
    is being dispatched overtake it. Nothing is ever missing, so nothing waits for long.

    Args:
        deliver: Gets the messages.
    """

    def __init__(self, deliver: Callable[[Any], None]) -> None:
        self._deliver = deliver
        self._next = 0
        self._early: dict[int, Any] = {}

    def take(self, number: int, message: Any) -> None:
        """A message has come."""
        self._early[number] = message
        while self._next in self._early:
            self._next += 1
            self._deliver(self._early.pop(self._next - 1))
