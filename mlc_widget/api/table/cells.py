"""The text of a table's values, as prompts have it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from numbers import Real
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.json_size import TooDeepError, TooLargeError, check_json_size
from mlc_widget.api.limits import LIMITS
from mlc_widget.api.request_values import bad

_MISSING_TYPES: Final = ("NaTType", "NAType")  # of pandas, which may not be installed

_CONVERSIONS: Final[Mapping[str, Callable[[object], str]]] = {"r": repr, "s": str, "a": ascii}


def plain(value: Any) -> Any:
    """A value with Python's types for numpy's, and None for any kind of missing value.

    Missing are None, NaN, pandas' ``NaT`` and ``NA``, and numpy's ``NaT``.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        value = value.tolist()  # also of a single value
    if type(value).__name__ in _MISSING_TYPES:
        return None
    if isinstance(value, Real) and value != value:  # NaN
        return None
    return None if isinstance(value, Decimal) and value.is_nan() else value


def cell_text(column: str, value: Any, conversion: str | None, spec: str) -> str:
    """The text of a value, in which braces and control tokens are nothing but text.

    A missing value is empty; lists, mappings and sets are written as JSON.

    Args:
        column: The column's name, for messages.
        value: The value.
        conversion: As in `str.format`: ``r``, ``s``, ``a`` or None.
        spec: As in `str.format`, such as ``.2f``.

    Raises:
        BadRequestError: The value cannot be written like this.
    """
    value = plain(value)
    if value is None:
        return ""
    if isinstance(value, bytes | bytearray | memoryview):
        raise bad(column, value, "the value is bytes; decode it to text first.")
    try:
        if conversion is not None:
            value = _CONVERSIONS[conversion](value)
        if spec:
            return format(value, spec)
        if isinstance(value, str):
            return value
        if isinstance(value, Mapping | list | tuple | set | frozenset):
            return _json(column, value)
        return str(value)
    except BadRequestError:  # which is a ValueError
        raise
    except Exception as error:  # a class of the user's may raise anything
        how = f"{{{column}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}}"
        raise bad(column, value, f"it cannot be written as {how}: {error}.") from None


def _json(column: str, value: Any) -> str:
    try:
        check_json_size(value, LIMITS.prompt_bytes, LIMITS.schema_depth)
    except TooLargeError:
        raise bad(column, value, f"give at most {LIMITS.prompt_bytes} bytes of text.") from None
    except TooDeepError:
        raise bad(column, value, f"nest at most {LIMITS.schema_depth} levels.") from None
    return json.dumps(_nested(value), ensure_ascii=False)


def _nested(value: Any) -> Any:
    """A value of JSON's types: missing ones are null, and what JSON does not know is text."""
    value = plain(value)
    if isinstance(value, Mapping):
        return {key: _nested(inner) for key, inner in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    if isinstance(value, list | tuple):
        return [_nested(inner) for inner in value]
    return value if isinstance(value, str | int | float | type(None)) else str(value)
