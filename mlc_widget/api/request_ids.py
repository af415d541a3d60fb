"""The ids by which requests are known: in answers, errors, logs and calls of `abort`."""

from __future__ import annotations

import uuid
from typing import Final, Literal

from mlc_widget.api.errors import MLCEngineError

_PREFIXES: Final = {"chat": "chatcmpl", "completion": "cmpl", "embedding": "embd"}


def new_request_id(kind: Literal["chat", "completion", "embedding"]) -> str:
    """Make an id in OpenAI's style for a request without one."""
    return f"{_PREFIXES[kind]}-{uuid.uuid4().hex}"


def of_request(error: BaseException, request_id: str) -> BaseException:
    """An error that says whose it is; a copy if it is another request's, too."""
    if not isinstance(error, MLCEngineError) or error.request_id == request_id:
        return error
    if error.request_id is not None:
        error = error.copy()
    error.request_id = request_id
    return error
