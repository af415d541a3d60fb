"""Errors across the wire: class name, message, code, param and traceback, never a pickle."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

from mlc_widget.api import errors
from mlc_widget.api.requests import JSONDict
from mlc_widget.api.tracebacks import explains_itself
from mlc_widget.api.unicode_text import well_formed

_MAX_TRACEBACK = 20_000


class RemoteTraceback(Exception):
    """The cause of an error from the worker: its traceback there, as text."""

    is_remote_traceback = True  # for api.ipython_traceback

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def encode_error(error: BaseException, request_id: str | None = None) -> JSONDict:
    """Turn an error into the JSON that crosses the wire, whatever text it quotes."""
    if isinstance(error, errors.MLCEngineError):
        own = error
    else:
        own = errors.InternalEngineError(_description(error))
    fields = {
        "type": type(own).__name__,
        "message": own.message,
        "code": own.code,
        "param": own.param,
        "request_id": own.request_id or request_id,
        "traceback": _traceback(error)[-_MAX_TRACEBACK:],
    }
    return {
        name: well_formed(value) if isinstance(value, str) else value
        for name, value in fields.items()
    }


def _traceback(error: BaseException) -> str:
    """How an error came about: all of it, or the first frame and the last if that says enough."""
    described = traceback.TracebackException.from_exception(error)
    if explains_itself(error):
        del described.stack[1:-1]
    return "".join(described.format())


def _description(error: BaseException) -> str:
    """An error's class and text; one that cannot say its text has its class alone."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def decode_error(text: str, error: Mapping[str, Any] | None) -> errors.MLCEngineError:
    """Make the error that a ``throw`` describes; its cause is the remote traceback."""
    fields = error or {}
    message = str(fields.get("message") or text)
    found = getattr(errors, str(fields.get("type")), None)
    known = isinstance(found, type) and issubclass(found, errors.MLCEngineError)
    cls = found if known and found is not None else errors.InternalEngineError
    decoded: errors.MLCEngineError = cls(
        message,
        code=fields.get("code"),
        param=fields.get("param"),
        request_id=fields.get("request_id"),
    )
    if fields.get("traceback"):
        # The error itself ends with the message: here it would be shown a second time.
        remote = str(fields["traceback"]).rstrip().removesuffix(f": {message}")
        decoded.__cause__ = RemoteTraceback(f"{remote}\n")
    return decoded
