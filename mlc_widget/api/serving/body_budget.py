"""How many bytes of requests' bodies a server holds at a time."""

from __future__ import annotations

from typing import Final

from mlc_widget.api.errors import MLCEngineError

MAX_BODIES: Final = 128 * 1024 * 1024
MAX_ALL_BODIES: Final = 512 * 1024 * 1024


class TooManyRequestsError(MLCEngineError):
    """As many requests as the server takes at once, or as many bytes of them, are in it."""

    default_code = "too_many_requests"


class BodyBudget:
    """Counts the bytes that are held, for one engine or for all. On the home loop.

    Args:
        most: The limit, in bytes.

    Attributes:
        held: The bytes that are held.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    def take(self, nbytes: int) -> None:
        """Hold this many more bytes.

        Raises:
            TooManyRequestsError: They would be too many; none is held.
        """
        if self.held + nbytes > self._most:
            raise TooManyRequestsError(
                f"The server holds {self.held} bytes of requests already, of at most "
                f"{self._most}; try again later."
            )
        self.held += nbytes

    def give_back(self, nbytes: int) -> None:
        """Release this number of bytes."""
        self.held -= nbytes
