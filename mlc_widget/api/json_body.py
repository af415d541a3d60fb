"""Reads JSON of others, which must not hold up an event loop for long.

`json.loads` never lets another thread run, and takes up to a hundred times as long for many small
values, keys or containers as for a text of the same size, and much more memory; so these are
counted first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError

_FREE_BYTES: Final = 65_536
_MAX_VALUES: Final = 1_114_112
"""A little more than the ids that a prompt may have."""
_MAX_KEYS: Final = 65_536
_MAX_CONTAINERS: Final = 65_536
_MAX_WIDTH: Final = 32
"""The bytes that a number may have, on average."""


@dataclass(frozen=True, slots=True)
class JsonBounds:
    """How many parts a JSON text may have; a quarter as many texts as values."""

    values: int
    keys: int
    containers: int


_OF_BODIES: Final = JsonBounds(_MAX_VALUES, _MAX_KEYS, _MAX_CONTAINERS)


def read_json_body(content: bytes) -> Any:
    """Parse a body.

    Raises:
        BadRequestError: It is not JSON in UTF-8, or has too many parts.
    """
    if (encoding := json.detect_encoding(content)) not in ("utf-8", "utf-8-sig"):
        raise BadRequestError(f"the request's body is in {encoding}: send JSON in UTF-8.")
    if (excess := json_excess(content, _OF_BODIES)) is not None:
        raise BadRequestError(f"the request's body has {excess}. Send less at once.")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the request's body is not JSON: {error}") from None


def json_excess(content: bytes, bounds: JsonBounds) -> str | None:
    """What a JSON text in UTF-8 has too many of, for an error; None if it is within the bounds."""
    if len(content) <= _FREE_BYTES or _is_small(content, bounds):
        return None
    unescaped = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    texts = unescaped.count(b'"') // 2
    bare = b"".join(unescaped.split(b'"')[::2]).translate(None, b" \t\r\n")
    values = bare.count(b",") + 1
    for what, count, most in (
        ("texts", texts, bounds.values // 4),
        ("keys", bare.count(b":"), bounds.keys),
        ("objects and arrays", bare.count(b"{") + bare.count(b"["), bounds.containers),
        ("values", values, bounds.values),
        ("bytes in numbers", len(bare), _MAX_WIDTH * (values + bounds.keys)),
    ):
        if count > most:
            return f"{count} {what}; it may have at most {most}"
    return None


def _is_small(content: bytes, bounds: JsonBounds) -> bool:
    """Whether it is within the bounds even if what is in its texts is counted, too."""
    return (
        len(content) <= _MAX_WIDTH * bounds.keys
        and sum(map(content.count, (b",", b":", b"{", b"["))) <= bounds.keys
    )
