"""Notes in an engine's log the requests that are refused before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from mlc_widget.api.core import EngineCore
from mlc_widget.api.engine_log import EngineLog
from mlc_widget.api.errors import MLCEngineError
from mlc_widget.api.log_text import class_name
from mlc_widget.api.requests import CHAT_FIELDS, COMPLETION_FIELDS, EMBEDDING_FIELDS

_R = TypeVar("_R", bound=Mapping[str, Any])
_T = TypeVar("_T")
_FIELDS: Final = frozenset({*CHAT_FIELDS, *COMPLETION_FIELDS, *EMBEDDING_FIELDS})


def checked(core: EngineCore, check: Callable[[_R], _T], request: _R) -> _T:
    """Check a request, and note in the engine's log if it is refused; from any thread.

    Args:
        core: The engine. Its attribute ``log`` is its `EngineLog`; one without it notes nothing.
        check: What checks it, such as `api.requests.check_chat`.
        request: The request, as it was given.

    Raises:
        BadRequestError: A field is invalid.
    """
    try:
        return check(request)
    except MLCEngineError as error:
        log = getattr(core, "log", None)
        if isinstance(log, EngineLog):
            _note(log, error, request)
        raise


def _note(log: EngineLog, error: MLCEngineError, request: Mapping[str, Any]) -> None:
    """Note the error's class and the field, if it is a known one; never a text of the user's."""
    found = re.match(r"\w+", error.param or "")
    field = found[0] if found and found[0] in _FIELDS else None
    where = "" if field is None else f" ({field})"
    log.note(
        f"A request was refused before it was sent: {class_name(error)}{where}",
        level="WARNING",
        request_id=None if field == "request_id" else request.get("request_id"),
    )
