"""Carries out the page's intents: each one once, on the I/O thread, with an acknowledgement."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from mlc_widget.api.errors import MLCEngineError
from mlc_widget.api.request_values import bad
from mlc_widget.api.requests import JSONDict

_log = logging.getLogger(__name__)
_REMEMBERED = 256
_ID_LENGTH = 64

Handler: TypeAlias = Callable[[JSONDict], object]


class IntentDispatcher:
    """Turns ``{"type": "intent", "id", "intent": {"kind", …}}`` into calls and acknowledgements.

    Without an acknowledgement, the page sends an intent again by another channel. So each id is
    carried out once, and acknowledged each time, with ``{"type": "ack", "intent": id, "error": text
    or None}``.

    Args:
        handlers: The function for each kind. A `MLCEngineError` refuses the intent; its message is
            the ack's error. If it returns a coroutine, the acknowledgement waits for its
            end.
        answer: Sends a message to the page.
    """

    def __init__(
        self, handlers: Mapping[str, Handler], answer: Callable[[JSONDict], object]
    ) -> None:
        self._handlers = handlers
        self._answer = answer
        self._taken: OrderedDict[str, str | None] = OrderedDict()
        self._pending: dict[str, asyncio.Future[None]] = {}

    def take(self, content: Any) -> None:
        """Handle a message from the page; what is not an intent is ignored. On the I/O thread."""
        if not isinstance(content, dict) or content.get("type") != "intent":
            return
        intent_id, intent = content.get("id"), content.get("intent")
        if not isinstance(intent_id, str) or len(intent_id) > _ID_LENGTH:
            return
        if intent_id in self._pending:
            return
        if intent_id in self._taken:
            self._acknowledge(intent_id, self._taken[intent_id])
            return
        try:
            done = self._carry_out(intent)
        except Exception as error:
            self._acknowledge(intent_id, _reason(error))
            return
        if inspect.iscoroutine(done):  # a `Reply` is awaitable, too
            self._pending[intent_id] = asyncio.ensure_future(self._wait(intent_id, done))
        else:
            self._acknowledge(intent_id, None)

    def _carry_out(self, intent: Any) -> object:
        kind = intent.get("kind") if isinstance(intent, dict) else None
        handler = self._handlers.get(kind) if isinstance(kind, str) else None
        if handler is None:
            raise bad("kind", kind, "this widget does not know this intent.")
        return handler(intent)

    async def _wait(self, intent_id: str, done: Awaitable[object]) -> None:
        reason: str | None = None
        try:
            await done
        except Exception as error:
            reason = _reason(error)
        del self._pending[intent_id]
        self._acknowledge(intent_id, reason)

    def _acknowledge(self, intent_id: str, reason: str | None) -> None:
        """Say that an intent was carried out, or why it was refused."""
        self._taken[intent_id] = reason
        if len(self._taken) > _REMEMBERED:
            self._taken.popitem(last=False)
        self._answer({"type": "ack", "intent": intent_id, "error": reason})


def _reason(error: Exception) -> str:
    if isinstance(error, MLCEngineError):
        return error.message
    _log.error("an intent failed", exc_info=error)
    return f"{type(error).__name__}: {error}"
