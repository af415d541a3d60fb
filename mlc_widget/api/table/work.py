"""The rows of a map that are being computed: requests, coalesced and cached, with a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from mlc_widget.api.core import EngineCore
from mlc_widget.api.errors import (
    BadRequestError,
    ContextLengthExceededError,
    EngineForkedError,
    EngineTerminatedError,
    InsufficientMemoryError,
    LoadCancelledError,
    MLCEngineError,
    ModelError,
    RuntimeUnavailableError,
    UnsupportedFieldError,
    WorkerStartError,
)
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.request_values import JSONDict
from mlc_widget.api.table.labels import ask_probabilities
from mlc_widget.api.table.plan import MapPlan, RowKeys, rows_ahead
from mlc_widget.api.table.reply_cache import Reply, ReplyCache
from mlc_widget.api.table.report import MapRow
from mlc_widget.api.table.tool_calls import ToolCalls, ask_with_results, check_turns

_OF_ALL_ROWS: Final = (
    EngineForkedError,
    EngineTerminatedError,
    InsufficientMemoryError,
    LoadCancelledError,
    ModelError,
    RuntimeUnavailableError,
    UnsupportedFieldError,
    WorkerStartError,
)
"""Errors that are not about one row: every other row would fail in the same way."""

_WAITING: Final = 16
"""Rows per request ahead that may wait for the same reply as another row."""


@dataclass(slots=True)
class _Request:
    """A request that runs, and the rows that get its reply; the first one asked for it."""

    key: bytes
    content: JSONDict
    rows: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)
    turns: int = 0
    """How often it went on with the results of tools."""


class RowWork:
    """Starts rows and finishes them, on one thread, without waiting for anything.

    Args:
        core: The engine's core.
        home: The loop that it runs on.
        plan: The map.
        model: The model as the engine lists it.
        cache: Where replies are kept, if anywhere.
        loop: The caller's loop; None on a blocking engine.

    Raises:
        BadRequestError: The tools have coroutine functions, but there is no loop.
    """

    def __init__(
        self,
        core: EngineCore,
        home: HomeLoop,
        plan: MapPlan,
        model: Mapping[str, Any],
        cache: ReplyCache | None,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self._core, self._home, self._plan, self._cache = core, home, plan, cache
        self._keys = RowKeys(plan, model)
        self._tools = ToolCalls(plan.tools, plan.report, loop)
        # Rows give way to whatever else the engine is asked.
        self._fields: JSONDict = {**plan.shared, "model": model["id"], "service_tier": "flex"}
        self._ahead = rows_ahead(model, len(plan.labels or (None,)))
        self._requests: dict[Future[JSONDict], _Request] = {}
        self._by_key: dict[bytes, _Request] = {}
        self._rows = 0

    @property
    def full(self) -> bool:
        """Whether more rows would be of no use before one of these has finished."""
        return len(self._requests) >= self._ahead or self._rows >= self._ahead * _WAITING

    @property
    def futures(self) -> set[Future[JSONDict]]:
        """The requests that run."""
        return set(self._requests)

    def start(self, index: int, row: Mapping[str, Any]) -> MapRow | None:
        """Begin with a row; a row that needs no request is returned at once.

        Raises:
            MLCEngineError: It failed, and errors are not kept.
        """
        try:
            messages = self._plan.prompt.messages(row)
        except MLCEngineError as error:
            return self._failed(index, row, error)
        if messages is None:
            self._plan.report.skipped += 1
            return self._made(MapRow(index, row, self._nothing()))
        seed, key = self._keys.seed_and_key(messages)
        if (request := self._by_key.get(key)) is not None:
            request.rows.append((index, row))
            self._rows += 1
            return None
        if self._cache is not None and (reply := self._cache.get(key)) is not None:
            return self._answered(index, row, reply, cached=True)
        content = {**self._fields, "messages": messages, "seed": seed}
        if self._plan.labels is None:
            ask = partial(self._core.request, "chat", content)
        else:
            ask = partial(ask_probabilities, self._core, content, self._plan.labels)
        request = self._by_key[key] = _Request(key, content, [(index, row)])
        self._requests[self._home.start(ask)] = request
        self._rows += 1
        return None

    def finish(self, future: Future[JSONDict]) -> list[MapRow]:
        """The rows of a request that is done; none if it goes on with the results of tools.

        Raises:
            MLCEngineError: It failed, and errors are not kept, or all rows would fail so.
        """
        request = self._requests.pop(future)
        try:
            response = future.result()
            choice, usage = response["choices"][0], response.get("usage") or {}
            self._plan.report.prompt_tokens += usage.get("prompt_tokens", 0)
            self._plan.report.completion_tokens += usage.get("completion_tokens", 0)
            if choice["finish_reason"] == "tool_calls":
                self._continue(request, choice["message"])
                return []
            if choice["finish_reason"] == "abort":
                raise MLCEngineError("The row was interrupted.", code="interrupted")
            if choice["message"].get("tool_calls"):
                self._plan.report.truncated += 1
                raise MLCEngineError(
                    "The reply was cut off in a call of a tool: raise max_tokens.",
                    code="reply_truncated",
                )
        except CancelledError:
            raise EngineTerminatedError("The engine has ended.") from None
        except MLCEngineError as error:
            if _is_of_all_rows(error):
                raise
            self._forget(request)
            return [self._failed(index, row, error) for index, row in request.rows]
        self._forget(request)
        reply = Reply(choice["message"].get("content") or "", choice["finish_reason"] or "")
        if self._cache is not None:
            self._cache.put(request.key, reply, self._fields["model"])
        return [
            self._answered(index, row, reply, cached=i > 0)
            for i, (index, row) in enumerate(request.rows)
        ]

    def _continue(self, request: _Request, message: Mapping[str, Any]) -> None:
        """Make the calls of a reply, and ask again with their results."""
        check_turns(request.turns)
        request.turns += 1
        results = self._tools.make(message["tool_calls"])
        request.content = dict(request.content)
        ask = partial(ask_with_results, self._core, request.content, message, results)
        self._requests[self._home.start(ask)] = request

    def _forget(self, request: _Request) -> None:
        del self._by_key[request.key]
        self._rows -= len(request.rows)

    def cancel(self) -> list[tuple[int, Mapping[str, Any]]]:
        """End all requests; the engine stops within a step. Returns the rows that asked."""
        rows = [row for request in self._requests.values() for row in request.rows]
        # Requests that have not started yet do not await the functions' results.
        self._tools.cancel()
        for future in list(self._requests):
            future.cancel()
        self._requests.clear()
        self._by_key.clear()
        return rows

    def _nothing(self) -> dict[str, Any]:
        return dict.fromkeys(self._plan.schema.columns)

    def _answered(
        self, index: int, row: Mapping[str, Any], reply: Reply, *, cached: bool
    ) -> MapRow:
        cut = reply.finish == "length"
        self._plan.report.truncated += cut
        try:
            if cut and self._plan.schema.response_format is not None:
                raise MLCEngineError(
                    "The reply was cut off before it was complete: raise max_tokens, or limit "
                    "what the schema allows.",
                    code="reply_truncated",
                )
            values = self._plan.schema.read(reply.text)
        except MLCEngineError as error:
            return self._failed(index, row, error, cached=cached)
        return self._made(MapRow(index, row, values, cached=cached))

    def _failed(
        self, index: int, row: Mapping[str, Any], error: MLCEngineError, *, cached: bool = False
    ) -> MapRow:
        if not self._plan.keeps_errors:
            error.add_note(f"This is about row {index} of the data.")
            raise error
        return self._made(MapRow(index, row, self._nothing(), error, cached))

    def _made(self, row: MapRow) -> MapRow:
        self._plan.report.add(row)
        return row


def _is_of_all_rows(error: MLCEngineError) -> bool:
    if isinstance(error, _OF_ALL_ROWS):
        return True
    about_row = isinstance(error, ContextLengthExceededError) or (error.param or "").startswith(
        "messages"
    )
    return isinstance(error, BadRequestError) and not about_row
