"""Server-sent events, in which OpenAI's API streams: how they are written."""

from __future__ import annotations

import json
from typing import Final

from mlc_widget.api.request_values import JSONDict

DONE: Final = b"data: [DONE]\n\n"
"""The event after the last one of a chat or completion."""


def event(data: JSONDict) -> bytes:
    """A server-sent event; those of the Responses API are named by their type."""
    name = f"event: {data['type']}\n".encode() if "type" in data else b""
    return name + b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"
