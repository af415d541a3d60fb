"""Describes values of the notebook as text for a model, with a limit on its length."""

from __future__ import annotations

import csv
import inspect
import io
import sys
import traceback
from collections.abc import Mapping
from types import FunctionType, MethodType
from typing import Any, Final

LIMIT: Final = 8_000
"""Characters that one value may take in a prompt."""
ROWS: Final = 20
"""Rows of a data frame that a prompt has."""
_COLUMNS: Final = 20
_CELL: Final = 60


def describe(value: Any, limit: int = LIMIT) -> str:
    """A value as text of at most about `limit` characters.

    Text stays as it is; an exception becomes its traceback, a data frame its columns, types and
    first rows, a function its source, and anything else its `repr`. If the text is too long, its
    middle is left out, and the text says so.
    """
    return shortened(_text(value), limit)


def shortened(text: str, limit: int) -> str:
    """A text without its middle, if it is too long."""
    if len(text) <= limit:
        return text
    kept = max(limit // 2, 1)
    left_out = len(text) - 2 * kept
    return f"{text[:kept]}\n… ({left_out:,} characters left out) …\n{text[-kept:]}"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, BaseException):
        return describe_error(value)
    frame = _frame(value)
    if frame is not None:
        return frame
    if isinstance(value, FunctionType | MethodType | type):
        try:
            return inspect.getsource(value)
        except (OSError, TypeError):
            pass
    if type(value).__module__.startswith("mlc_widget."):
        reply = getattr(value, "text", None)
        if isinstance(reply, str):
            return reply
    return repr(value)


def describe_error(error: BaseException) -> str:
    """A traceback, from the first frame in the notebook."""
    shown = traceback.TracebackException.from_exception(error, limit=30)
    for part in _chain(shown):
        own = [i for i, frame in enumerate(part.stack) if _is_shell(frame.filename)]
        if own and own[-1] + 1 < len(part.stack):
            del part.stack[: own[-1] + 1]
    return "".join(shown.format()).strip()


def _chain(shown: traceback.TracebackException) -> list[traceback.TracebackException]:
    found: list[traceback.TracebackException] = []
    at: traceback.TracebackException | None = shown
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or at.__context__
    return found


def _is_shell(filename: str) -> bool:
    return filename.replace("\\", "/").endswith("IPython/core/interactiveshell.py")


def frame_shape(value: Any) -> tuple[int, int] | None:
    """The rows and columns of a data frame of pandas or polars; None of anything else."""
    library = _library(value)
    if library is None or not isinstance(value, library.DataFrame):
        return None
    rows, columns = value.shape
    return int(rows), int(columns)


def _library(value: Any) -> Any:
    """The module pandas or polars if the value is of it, or None; neither is imported for that."""
    kind = type(value).__module__.partition(".")[0]
    return sys.modules.get(kind) if kind in ("pandas", "polars") else None


def _frame(value: Any) -> str | None:
    """Describe a data frame or series, or return None."""
    library = _library(value)
    if library is None:
        return None
    if library.__name__ == "pandas":
        if isinstance(value, library.DataFrame):
            return _pandas(value)
        if isinstance(value, library.Series):
            shown = value.head(ROWS).to_string()
            return f"Series {value.name!r}: {len(value):,} values ({value.dtype})\n{shown}"
    elif isinstance(value, library.DataFrame):
        return _polars(value)
    return None


def _pandas(frame: Any) -> str:
    rows, columns = frame.shape
    types = {str(name): str(dtype) for name, dtype in frame.dtypes.items()}
    part = frame.iloc[:ROWS, :_COLUMNS]
    shown = part.to_string(max_colwidth=_CELL)
    more = f"\n… ({rows - ROWS:,} more rows)" if rows > ROWS else ""
    return f"{_head(rows, columns, types)}\n{shown}{more}"


def _polars(frame: Any) -> str:
    rows, columns = frame.shape
    types = {str(name): str(dtype) for name, dtype in frame.schema.items()}
    part = frame.head(ROWS)
    shown = io.StringIO()
    # Not by polars, which writes no lists, structs, durations and bytes.
    writer = csv.writer(shown, lineterminator="\n")
    writer.writerow(part.columns)
    writer.writerows(part.iter_rows())
    return f"{_head(rows, columns, types)}\n{shown.getvalue()}"


def _head(rows: int, columns: int, types: Mapping[str, str]) -> str:
    named = ", ".join(f"{name} ({dtype})" for name, dtype in list(types.items())[: 5 * _COLUMNS])
    return f"Data frame: {rows:,} rows, {columns:,} columns: {named}"
