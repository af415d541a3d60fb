"""The Responses API's calls on an engine core."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

from mlc_widget.api.core import ChunkSource, EngineCore
from mlc_widget.api.errors import BadRequestError, InternalEngineError, MLCEngineError
from mlc_widget.api.refusals import checked
from mlc_widget.api.request_values import JSONDict, bad
from mlc_widget.api.responses_api.events import ResponseBuilder
from mlc_widget.api.responses_api.items import new_id
from mlc_widget.api.responses_api.request import ResponseRequest, check_response, previous_id
from mlc_widget.api.responses_api.store import ResponseStore


class ResponsesApi:
    """``client.responses``. On the home loop.

    Args:
        core: The engine.
        store: Keeps responses; all clients of an engine share it.
    """

    def __init__(self, core: EngineCore, store: ResponseStore) -> None:
        self._core = core
        self._store = store

    async def create(self, body: Mapping[str, Any]) -> JSONDict | ChunkSource:
        """Answer with the response or, if the request asks for a stream, its events.

        Raises:
            MLCEngineError: The request is invalid, or it failed.
        """
        previous = previous_id(body)
        history = [] if previous is None else self._store.history(previous)
        request = checked(self._core, lambda given: check_response(given, history), body)
        stream = _EventStream(self._core, self._store, request, [*history, *request.items])
        await stream.open()
        if request.stream:
            return stream
        async with contextlib.aclosing(stream):
            return await stream.response()

    async def retrieve(self, response_id: str, query: str) -> JSONDict:
        """A stored response; if it is still running, its state so far."""
        for name, value in parse_qsl(query):
            if name == "stream" and value != "false":
                raise bad("stream", value, "events are not kept; leave it out to get the response.")
        return self._store.get(response_id).response

    async def delete(self, response_id: str) -> JSONDict:
        """Forget a response."""
        self._store.delete(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    async def cancel(self, response_id: str) -> JSONDict:
        """Cancel a response that is in progress.

        Raises:
            BadRequestError: It has ended.
        """
        entry = self._store.get(response_id)
        if not self._store.running(response_id):
            raise BadRequestError(
                f"Cannot cancel a response that has ended: it is {entry.response['status']}."
            )
        await self._core.abort(response_id)
        return {**entry.response, "status": "cancelled"}

    async def input_items(self, response_id: str, query: str) -> JSONDict:
        """The items that the model was given, the newest first unless ``order=asc``."""
        asked = dict(parse_qsl(query))
        items = list(self._store.get(response_id).items)
        order, limit = asked.get("order", "desc"), asked.get("limit", "20")
        if order not in ("asc", "desc"):
            raise bad("order", order, "give asc or desc.")
        if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= 100:
            raise bad("limit", limit, "give 1 to 100.")
        if order == "desc":
            items.reverse()
        if "after" in asked:
            ids = [item["id"] for item in items]
            if asked["after"] not in ids:
                raise bad("after", asked["after"], "no input item has this id.")
            items = items[ids.index(asked["after"]) + 1 :]
        page = items[: int(limit)]
        return {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(items) > len(page),
        }


class _EventStream:
    """A `ChunkSource` of a response's events; the response is stored when it ends."""

    def __init__(
        self,
        core: EngineCore,
        store: ResponseStore,
        request: ResponseRequest,
        items: list[JSONDict],
    ) -> None:
        self._core = core
        self._store = store
        self._request = request
        self._items = items
        self._id = new_id("resp")
        self._builder = ResponseBuilder(self._id, request.chat.get("model", ""), request.echo)
        self._chat: ChunkSource | None = None
        self._error: MLCEngineError | None = None
        self._begun = self._ended = False

    async def open(self) -> None:
        """Submit the request to the engine.

        Raises:
            MLCEngineError: The engine refuses the request.
        """
        chat = {**self._request.chat, "request_id": self._id}
        self._chat = await self._core.open_stream("chat", chat)
        self._store.begin(self._builder.response, self._items)

    async def response(self) -> JSONDict:
        """Wait for the whole response.

        Raises:
            MLCEngineError: The request failed.
        """
        async for _ in self:
            pass
        if self._error is not None:
            raise self._error
        return self._builder.response

    def __aiter__(self) -> AsyncIterator[list[JSONDict]]:
        return self

    async def __anext__(self) -> list[JSONDict]:
        if not self._begun:
            self._begun = True
            return self._builder.begin()
        if self._ended:
            raise StopAsyncIteration
        assert self._chat is not None
        events: list[JSONDict] = []
        while not events:
            try:
                batch = await anext(self._chat)
            except StopAsyncIteration:
                events = self._end(self._builder.end())
            except MLCEngineError as error:
                self._error = error
                events = self._end(self._builder.fail(error))
            except Exception as error:
                self._error = InternalEngineError(f"{type(error).__name__}: {error}")
                events = self._end(self._builder.fail(self._error))
            else:
                events = [event for chunk in batch for event in self._builder.take(chunk)]
        return events

    def _end(self, events: list[JSONDict]) -> list[JSONDict]:
        self._ended = True
        self._store.end(self._id, store=self._request.store)
        return events

    async def aclose(self) -> None:
        """Stop the response, which is not stored if it has not ended. Idempotent."""
        self._ended = True
        self._store.end(self._id, store=False)
        if self._chat is not None:
            await self._chat.aclose()
