"""Ends a worker whose notebook is gone, where only silence can tell: on another machine."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from mlc_widget.api.errors import ProtocolError

UNCLAIMED_S: Final = 600.0
"""Seconds for which a worker waits for its first client."""
_TICK_S: Final = 0.5


def read_link_timeout(opening: Mapping[str, Any]) -> float:
    """How long a client may be silent, from what opened its comm; infinite if it does not say.

    Raises:
        ProtocolError: it is no time.
    """
    value = opening.get("linkTimeout")
    if value is None:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ProtocolError(f"linkTimeout = {value!r:.200}: must be a positive number of seconds")
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


class Lease:
    """Ends the worker after a silence of its clients.

    The longest promise of all clients counts, and any client's message renews it.

    Args:
        leave: Ends the process; called with the reason, a sentence.
    """

    def __init__(self, leave: Callable[[str], object]) -> None:
        self._leave = leave
        self._timeout = UNCLAIMED_S
        self._claimed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._silence = 0.0
        self._last = time.monotonic()

    def start(self) -> None:
        """Count from now on, on a thread, as the event loop may not run yet."""
        threading.Thread(target=self._tick, name="lease", daemon=True).start()

    def promise(self, timeout: float) -> None:
        """A client has come, and will not be silent for `timeout` seconds. On the event loop."""
        self._timeout = max(self._timeout, timeout) if self._claimed else timeout
        self._claimed = True
        self._loop = asyncio.get_running_loop()
        self.renew()

    def renew(self) -> None:
        """A client has sent something."""
        self._silence = 0.0

    def _tick(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(_TICK_S)
            if self._loop is None:
                self.count()
            else:  # there, since what has come while it was blocked counts, too
                self._loop.call_soon_threadsafe(self.count)

    def count(self) -> None:
        """Count the silence since the last call, and end the worker if it was too long.

        The time for which this process or its machine was stopped does not count.
        """
        now = time.monotonic()
        self._silence += min(now - self._last, 2 * _TICK_S)
        self._last = now
        if self._silence < self._timeout:
            return
        if self._claimed:
            self._leave(f"Nothing has come from the notebook for {self._timeout:g} s.")
        else:
            self._leave(f"No client has come for {self._timeout:g} s.")
