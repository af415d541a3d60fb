"""Reads the JSON of a request's body, which must not hold up an event loop for long.

`json.loads` never lets another thread run, and takes up to a hundred times as long for a body of
many small values, keys or containers as for a text of the same size; so these are counted first.
"""

from __future__ import annotations

import json
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError

_FREE_BYTES: Final = 65_536
_MAX_VALUES: Final = 1_114_112
"""A little more than the ids that a prompt may have."""
_MAX_KEYS: Final = 65_536
_MAX_CONTAINERS: Final = 65_536
_MAX_WIDTH: Final = 32
"""The bytes that a number may have, on average."""


def read_json_body(content: bytes) -> Any:
    """Parse a body.

    Raises:
        BadRequestError: It is not JSON in UTF-8, or has too many parts.
    """
    if (encoding := json.detect_encoding(content)) not in ("utf-8", "utf-8-sig"):
        raise BadRequestError(f"the request's body is in {encoding}: send JSON in UTF-8.")
    if len(content) > _FREE_BYTES:
        _check_parts(content)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the request's body is not JSON: {error}") from None


def _check_parts(content: bytes) -> None:
    if _is_small(content):  # even if what is in its texts is counted, too
        return
    unescaped = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    texts = unescaped.count(b'"') // 2
    _check("texts", texts, _MAX_VALUES // 4)
    bare = b"".join(unescaped.split(b'"')[::2]).translate(None, b" \t\r\n")
    values = bare.count(b",") + 1
    _check("keys", bare.count(b":"), _MAX_KEYS)
    _check("objects and arrays", bare.count(b"{") + bare.count(b"["), _MAX_CONTAINERS)
    _check("values", values, _MAX_VALUES)
    _check("bytes in numbers", len(bare), _MAX_WIDTH * (values + _MAX_KEYS))


def _is_small(content: bytes) -> bool:
    return (
        len(content) <= _MAX_WIDTH * _MAX_KEYS
        and sum(map(content.count, (b",", b":", b"{", b"["))) <= _MAX_KEYS
    )


def _check(what: str, count: int, most: int) -> None:
    if count > most:
        raise BadRequestError(
            f"the request's body has {count} {what}; it may have at most {most}. Send less at once."
        )
