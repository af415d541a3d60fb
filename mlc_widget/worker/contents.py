"""Typed access to the contents of messages, with errors that name what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlc_widget.api.errors import ProtocolError
from mlc_widget.protocol.messages import WorkerRequest


def content_of(request: WorkerRequest) -> Mapping[str, Any]:
    """A message's content; an empty mapping if there is none.

    Raises:
        ProtocolError: it is not an object.
    """
    if request.content is None:
        return {}
    if not isinstance(request.content, Mapping):
        raise _wrong(request, "content", "an object", request.content)
    return request.content


def text(request: WorkerRequest, name: str) -> str:
    """A required string.

    Raises:
        ProtocolError: it is missing, or not a string.
    """
    value = content_of(request).get(name)
    if not isinstance(value, str):
        raise _wrong(request, name, "a string", value)
    return value


def optional_text(request: WorkerRequest, name: str) -> str | None:
    """An optional string; None if it is missing.

    Raises:
        ProtocolError: it is something else.
    """
    return None if content_of(request).get(name) is None else text(request, name)


def integer(request: WorkerRequest, name: str, at_least: int) -> int:
    """A required integer of at least `at_least`.

    Raises:
        ProtocolError: it is something else.
    """
    value = content_of(request).get(name)
    if type(value) is not int or value < at_least:
        raise _wrong(request, name, f"an integer of at least {at_least}", value)
    return value


def model_ids(request: WorkerRequest) -> list[str]:
    """``modelId``: one string or a list of them.

    Raises:
        ProtocolError: it is something else.
    """
    ids = content_of(request).get("modelId")
    if isinstance(ids, str):
        return [ids]
    if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
        raise _wrong(request, "modelId", "a list of strings", ids)
    return ids


def _wrong(request: WorkerRequest, name: str, wanted: str, value: Any) -> ProtocolError:
    return ProtocolError(f"{request.kind}: {name} must be {wanted}, not {value!r:.200}", param=name)
