"""The responses of an engine that later requests may name, for as long as it lives."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_values import JSONDict

MAX_RESPONSES: Final = 1000
MAX_BYTES: Final = 64 * 1024 * 1024


class ResponseNotFoundError(BadRequestError):
    """No response of this id is stored, or no longer."""

    default_code = "response_not_found"


@dataclass(slots=True)
class StoredResponse:
    """A response with what it answered.

    Attributes:
        response: As it was sent.
        items: The items that the model was given: those of earlier responses, then its own.
        size: About its bytes.
    """

    response: JSONDict
    items: list[JSONDict]
    size: int = 0


class ResponseStore:
    """The newest responses, up to `MAX_RESPONSES` and `MAX_BYTES`. On the home loop.

    Those that are still being made are kept beside, however many they are.
    """

    def __init__(self) -> None:
        self._running: dict[str, StoredResponse] = {}
        self._stored: OrderedDict[str, StoredResponse] = OrderedDict()
        self._bytes = 0

    def begin(self, response: JSONDict, items: list[JSONDict]) -> None:
        """A response is being made; its dict is filled meanwhile."""
        self._running[response["id"]] = StoredResponse(response, items)

    def running(self, response_id: str) -> bool:
        """Whether it is being made."""
        return response_id in self._running

    def end(self, response_id: str, *, store: bool) -> None:
        """It was made, or left. Idempotent."""
        entry = self._running.pop(response_id, None)
        if entry is None or not store:
            return
        entry.size = len(json.dumps([entry.response, entry.items]))
        self._bytes += entry.size
        self._stored[response_id] = entry
        while len(self._stored) > MAX_RESPONSES or self._bytes > MAX_BYTES:
            self._bytes -= self._stored.popitem(last=False)[1].size

    def get(self, response_id: str) -> StoredResponse:
        """A response that was made, or is being made.

        Raises:
            ResponseNotFoundError: there is none.
        """
        entry = self._running.get(response_id) or self._stored.get(response_id)
        if entry is None:
            raise ResponseNotFoundError(
                f"Response with id {response_id!r} not found: it was made with store=False, or "
                "deleted, or by another engine, or has made room for newer ones."
            )
        return entry

    def history(self, response_id: str) -> list[JSONDict]:
        """The items that a conversation goes on from: what the response was given and said.

        Raises:
            BadRequestError: there is no such response, or it is still being made.
        """
        try:
            entry = self.get(response_id)
        except ResponseNotFoundError as error:
            raise BadRequestError(
                error.message, code="previous_response_not_found", param="previous_response_id"
            ) from None
        if self.running(response_id):
            raise BadRequestError(
                f"previous_response_id = {response_id!r}: it is still being made.",
                param="previous_response_id",
            )
        return [*entry.items, *entry.response["output"]]

    def delete(self, response_id: str) -> None:
        """Forget a response.

        Raises:
            ResponseNotFoundError: there is none.
        """
        self.get(response_id)
        entry = self._stored.pop(response_id, None)
        if entry is not None:
            self._bytes -= entry.size
