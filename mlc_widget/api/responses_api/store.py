"""Keeps an engine's responses, which later requests may continue, as long as the engine exists."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_values import JSONDict, shortened

MAX_RESPONSES: Final = 1000
MAX_BYTES: Final = 64 * 1024 * 1024


class ResponseNotFoundError(BadRequestError):
    """No response with this id is stored (any longer)."""

    default_code = "response_not_found"


@dataclass(slots=True)
class StoredResponse:
    """A response and what the model was given for it.

    Attributes:
        response: The response as it was sent.
        items: The items that the model was given: those of earlier responses, then those of this
            request.
        size: The size of both as JSON, in characters.
    """

    response: JSONDict
    items: list[JSONDict]
    size: int = 0


class ResponseStore:
    """The newest responses, up to `MAX_RESPONSES` and `MAX_BYTES`. On the home loop.

    Responses in progress are kept in addition, without a limit.
    """

    def __init__(self) -> None:
        self._running: dict[str, StoredResponse] = {}
        self._stored: OrderedDict[str, StoredResponse] = OrderedDict()
        self._bytes = 0

    def begin(self, response: JSONDict, items: list[JSONDict]) -> None:
        """Add a response in progress; its dict is filled until it ends."""
        self._running[response["id"]] = StoredResponse(response, items)

    def running(self, response_id: str) -> bool:
        """Whether the response is in progress."""
        return response_id in self._running

    def end(self, response_id: str, *, store: bool) -> None:
        """Note that a response has ended, and keep it if it is to be stored. Idempotent."""
        entry = self._running.pop(response_id, None)
        if entry is None or not store:
            return
        entry.size = len(json.dumps([entry.response, entry.items]))
        self._bytes += entry.size
        self._stored[response_id] = entry
        while len(self._stored) > MAX_RESPONSES or self._bytes > MAX_BYTES:
            self._bytes -= self._stored.popitem(last=False)[1].size

    def get(self, response_id: str) -> StoredResponse:
        """A response that is stored or in progress.

        Raises:
            ResponseNotFoundError: There is none with this id.
        """
        entry = self._running.get(response_id) or self._stored.get(response_id)
        if entry is None:
            raise ResponseNotFoundError(
                f"Response with id {shortened(response_id)} not found: it was created with "
                "store=False or by another engine, it was deleted, or newer responses have "
                "replaced it."
            )
        return entry

    def history(self, response_id: str) -> list[JSONDict]:
        """The items of the conversation up to and including a response.

        Raises:
            BadRequestError: There is no such response, or it is still in progress.
        """
        try:
            entry = self.get(response_id)
        except ResponseNotFoundError as error:
            raise BadRequestError(
                error.message, code="previous_response_not_found", param="previous_response_id"
            ) from None
        if self.running(response_id):
            raise BadRequestError(
                f"previous_response_id = {response_id!r}: it is still in progress.",
                param="previous_response_id",
            )
        return [*entry.items, *entry.response["output"]]

    def delete(self, response_id: str) -> None:
        """Forget a response.

        Raises:
            ResponseNotFoundError: There is none with this id.
        """
        self.get(response_id)
        entry = self._stored.pop(response_id, None)
        if entry is not None:
            self._bytes -= entry.size
