"""Carries out the page's intents: each one once, on the I/O thread, with an acknowledgement."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from mlc_widget.api.errors import BadRequestError, MLCEngineError
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
            the ack's error.
        answer: Sends a message to the page.
    """

    def __init__(
        self, handlers: Mapping[str, Handler], answer: Callable[[JSONDict], object]
    ) -> None:
        self._handlers = handlers
        self._answer = answer
        self._taken: OrderedDict[str, str | None] = OrderedDict()

    def take(self, content: Any) -> None:
        """Handle a message from the page; what is not an intent is ignored. On the I/O thread."""
        if not isinstance(content, dict) or content.get("type") != "intent":
            return
        intent_id, intent = content.get("id"), content.get("intent")
        if not isinstance(intent_id, str) or len(intent_id) > _ID_LENGTH:
            return
        if intent_id not in self._taken:
            self._taken[intent_id] = self._carry_out(intent)
            if len(self._taken) > _REMEMBERED:
                self._taken.popitem(last=False)
        self._answer({"type": "ack", "intent": intent_id, "error": self._taken[intent_id]})

    def _carry_out(self, intent: Any) -> str | None:
        """Carry an intent out; returns the reason if it was refused."""
        kind = intent.get("kind") if isinstance(intent, dict) else None
        handler = self._handlers.get(kind) if isinstance(kind, str) else None
        try:
            if handler is None:
                raise BadRequestError(f"kind = {kind!r}: this widget does not know this intent.")
            handler(intent)
        except MLCEngineError as error:
            return error.message
        except Exception as error:
            _log.exception("an intent failed")
            return f"{type(error).__name__}: {error}"
        return None
