"""When to ask a server again, and how often."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Final

ATTEMPTS: Final = 6
"""The maximum number of consecutive attempts in which no byte arrives."""
LONGEST_WAIT_S: Final = 120.0
"""The longest pause in seconds that a server may ask for; beyond that, an error is better."""
TEMPORARY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""The HTTP statuses after which another attempt may succeed."""
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 8.0
_RESET: Final = re.compile(r"(?:^|;)\s*t=(\d+)")


class TemporaryError(Exception):
    """A server or the network failed, perhaps only for now. The text is for the user.

    Args:
        text: What happened.
        wait_s: The pause in seconds for which the server asks, if any.
    """

    def __init__(self, text: str, wait_s: float | None = None) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class GaveUp(Exception):
    """There were too many failures, or a server asks for a long pause. The text is for the user."""


@dataclass(slots=True)
class Backoff:
    """Counts failures in a row and waits between them.

    Attributes:
        attempts: The maximum number of consecutive failures.
        on_wait: Called with the seconds and the reason before a wait.
        sleep: Waits.
    """

    attempts: int = ATTEMPTS
    on_wait: Callable[[float, str], object] = lambda seconds, reason: None
    sleep: Callable[[float], object] = time.sleep
    _failures: int = field(default=0, init=False)

    def succeeded(self) -> None:
        """Forget the failures so far."""
        self._failures = 0

    def wait(self, error: TemporaryError) -> None:
        """Wait before the next attempt.

        Raises:
            GaveUp: There is no further attempt.
        """
        self._failures += 1
        if error.wait_s is not None and error.wait_s > LONGEST_WAIT_S:
            raise GaveUp(f"{error}: it asks to wait {error.wait_s:.0f} s. Try again after that.")
        if self._failures >= self.attempts:
            times = "" if self.attempts == 1 else f", {self.attempts} times in a row"
            raise GaveUp(f"{error}{times}.")
        pause = min(_FIRST_PAUSE_S * 2 ** (self._failures - 1), _LONGEST_PAUSE_S)
        seconds = pause if error.wait_s is None else error.wait_s
        self.on_wait(seconds, str(error))
        # Random, so that clients that were refused at the same time do not all return together.
        self.sleep(seconds + random.uniform(0, pause / 4))


def wanted_pause(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """The pause in seconds in a response's ``Retry-After``, or in the Hub's ``RateLimit``.

    Args:
        headers: The response's headers, with names in lower case or a case-insensitive mapping.
        now: Returns the time in seconds since 1970.
    """
    value = (headers.get("retry-after") or "").strip()
    if re.fullmatch(r"\d{1,9}", value):
        return float(value)
    if value:
        try:
            return max(parsedate_to_datetime(value).timestamp() - now(), 0.0)
        except (TypeError, ValueError, OverflowError):
            return None
    limit = headers.get("ratelimit") or ""
    if re.search(r"(?:^|;)\s*r=0(?:;|$)", limit) and (reset := _RESET.search(limit)):
        return float(reset[1][:9])
    return None
