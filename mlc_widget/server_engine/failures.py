"""What a server's refusals mean, as errors of ours."""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from mlc_widget.api.errors import (
    BadRequestError,
    ContextLengthExceededError,
    MLCEngineError,
    ModelNotLoadedError,
    ServerError,
    UnsupportedFieldError,
    UnsupportedModelError,
)

Hide: TypeAlias = Callable[[str], str]
"""Gives a server's text without the key. It is for texts as they are shown: in JSON, a key may be
written in many ways."""
RETRIED: Final = frozenset({429, 502, 503, 504})
"""The statuses of requests that were not answered, and may be sent again."""
_SHOWN: Final = 600
_TOO_LONG: Final = re.compile(r"context.{0,20}(length|window|size)", re.I)


def failure(
    status: int, headers: Mapping[str, str], body: bytes, host: str, path: str, hide: Hide
) -> MLCEngineError:
    """The error for an answer that is not one.

    Args:
        status: Its HTTP status.
        headers: Its headers.
        body: The beginning of its body.
        host: The server, for the message.
        path: What was asked of it.
        hide: What hides the key.
    """
    said, code, param = _described(body, hide)
    told = f"The server at {host} answers {status}{f': {said}' if said else '.'}"
    if 300 <= status < 400:
        target = _printable(hide(headers.get("location", "")))[:200]
        return ServerError(
            f"The server at {host} redirects to {target or 'another address'}, which is not "
            "followed, as the key is not meant for it. Give the address itself.",
            code="redirected",
        )
    if status in (401, 403):
        return ServerError(
            f"{told} Put its key into an environment variable, and give the variable's name as "
            "api_key_env.",
            code="unauthorized",
        )
    if status == 404:
        if code == "model_not_found" or (said and "model" in said.lower()):
            return ModelNotLoadedError(told, param="model")
        # The list of models is asked for first, so that anything else is asked at a good address.
        remedy = (
            "Check the address: it usually ends in /v1."
            if path.endswith("/models")
            else f"It lists its models, but has no {_printable(path)}."
        )
        return ServerError(f"{told} {remedy}", code="no_such_address")
    if status in (400, 413, 422):
        return _refusal(code, said)(told, code=code, param=param)
    if status == 429:
        return ServerError(
            f"{told} It accepts no more requests at the moment; try again later.",
            code="rate_limited",
        )
    return ServerError(told, code="server_failed")


_BY_CODE: Final[Mapping[str | None, type[MLCEngineError]]] = {
    kind.default_code: kind
    for kind in (ContextLengthExceededError, UnsupportedFieldError, UnsupportedModelError)
}
"""OpenAI's code, and those of our own servers."""


def _refusal(code: str | None, said: str) -> type[MLCEngineError]:
    """The class of the error of a request that a server finds wrong."""
    known = _BY_CODE.get(code)
    if known is None and _TOO_LONG.search(said):
        return ContextLengthExceededError
    return known or BadRequestError


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait before the next try; None if it does not say."""
    given = headers.get("retry-after", "").strip()
    if given.isdecimal():
        return float(given[:12])
    try:
        when = email.utils.parsedate_to_datetime(given)
        return max(when.timestamp() - time.time(), 0.0)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def error_in(event: Any) -> Any:
    """The error that an event of a stream stands for; None if it is none.

    Besides OpenAI's ``{"error": …}``, some versions of llama.cpp's and vLLM's servers send the
    error itself.
    """
    if not isinstance(event, dict):
        return None
    bare = "choices" not in event and isinstance(event.get("message"), str)
    return event.get("error") or (event if bare else None)


def in_stream(error: Any, host: str, hide: Hide) -> ServerError:
    """The error that a server sends within a stream."""
    said, _, _ = _told(error, hide)
    return ServerError(f"The server at {host} ends the answer: {said or 'it failed.'}")


def _described(body: bytes, hide: Hide) -> tuple[str, str | None, str | None]:
    """The message, the code and the parameter of an answer, in the shapes that servers have."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return _sentence(body.decode("utf-8", "replace"), hide), None, None
    return _told(answer.get("error", answer) if isinstance(answer, dict) else answer, hide)


def _told(error: Any, hide: Hide) -> tuple[str, str | None, str | None]:
    """The message, the code and the parameter of an error."""
    if not isinstance(error, dict):
        return _sentence(error if isinstance(error, str) else "", hide), None, None
    said = error.get("message") or error.get("detail") or ""
    code, param = error.get("code"), error.get("param")
    return (
        _sentence(said if isinstance(said, str) else _compact(said), hide),
        _printable(hide(code))[:200] if isinstance(code, str) else None,
        _printable(hide(param))[:200] if isinstance(param, str) else None,
    )


def _compact(said: Any) -> str:
    """A message that is no text, as JSON."""
    try:
        return json.dumps(said)
    except (ValueError, RecursionError):  # deeper than what can be read
        return ""


def _sentence(text: str, hide: Hide) -> str:
    shown = " ".join(_printable(hide(text)[: 4 * _SHOWN]).split())
    shown = shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 1]}…"
    return shown if not shown or shown[-1] in ".!?…" else f"{shown}."


def _printable(text: str) -> str:
    """A text without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)
