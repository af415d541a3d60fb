"""Tables of all kinds: their columns and rows, and the same with new columns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Protocol, TypeAlias

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_values import bad

Row: TypeAlias = Mapping[str, Any]
Columns: TypeAlias = Mapping[str, tuple[Sequence[Any], str | None]]
"""Of each new column, the values and their type as JSON schema names it, if it has one."""

_BUFFER: Final = 512
"""Rows that are taken out of a frame at a time."""
_WANTED: Final = "give a pandas, polars or pyarrow table, a list of dicts, or an iterator of dicts."


class Table(Protocol):
    """The first rows of a user's data."""

    columns: Sequence[str] | None
    """The names of all columns; None if only the rows tell."""
    length: int | None
    """The number of rows, if that is known before they are read."""

    def rows(self) -> Iterator[Row] | AsyncIterator[Row]:
        """The rows, checked.

        Raises:
            BadRequestError: One of them is not a mapping with texts as keys.
        """

    def with_columns(self, rows: Sequence[Row], columns: Columns) -> Any:
        """The same kind of table, with new columns.

        Args:
            rows: The rows that were read, of a table that does not keep them.
            columns: The new columns.
        """


def open_table(data: Any, limit: int | None) -> Table:
    """Read the kind and the columns of `data`, of which only `limit` rows are wanted.

    Raises:
        BadRequestError: It is no table, or two of its columns have one name.
    """
    if isinstance(data, list | tuple):
        return _List(data if limit is None else data[:limit])
    if isinstance(data, str | bytes | Mapping):
        raise bad("data", data, _WANTED)
    if isinstance(data, AsyncIterable | Iterator):
        return _Stream(data, limit)
    return _frame(data, limit)


class _List:
    def __init__(self, data: Sequence[Any]) -> None:
        self._data = data
        self.length: int | None = len(data)
        names: dict[str, None] = {}
        for i, row in enumerate(data):
            names.update(dict.fromkeys(_checked(i, row)))
        self.columns: Sequence[str] | None = list(names) if data else None

    def rows(self) -> Iterator[Row]:
        return iter(self._data)

    def with_columns(self, rows: Sequence[Row], columns: Columns) -> list[dict[str, Any]]:
        return _dicts(self._data, columns)


class _Stream:
    """An iterator, which is read once, and no further than needed."""

    columns: Sequence[str] | None = None
    length: int | None = None

    def __init__(self, data: Iterator[Any] | AsyncIterable[Any], limit: int | None) -> None:
        self._data, self._limit = data, limit

    def rows(self) -> Iterator[Row] | AsyncIterator[Row]:
        if isinstance(self._data, AsyncIterable):
            return _checked_async(self._data, self._limit)
        return (_checked(i, row) for i, row in enumerate(islice(self._data, self._limit)))

    def with_columns(self, rows: Sequence[Row], columns: Columns) -> list[dict[str, Any]]:
        return _dicts(rows, columns)


async def _checked_async(data: AsyncIterable[Any], limit: int | None) -> AsyncIterator[Row]:
    i = 0
    if limit == 0:
        return
    async for row in data:
        yield _checked(i, row)
        i += 1
        if i == limit:  # without reading a row that nobody wants
            return


def _checked(i: int, row: Any) -> Row:
    if not isinstance(row, Mapping):
        raise bad(f"data[{i}]", row, 'give each row as a dict, such as {"text": "…"}.')
    for name in row:
        if not isinstance(name, str):
            raise bad(f"data[{i}]", name, "the keys of a row are names of columns: give texts.")
    return row


def _dicts(rows: Sequence[Row], columns: Columns) -> list[dict[str, Any]]:
    names = list(columns)
    values = zip(*(given for given, _ in columns.values()), strict=True)
    return [
        {**row, **dict(zip(names, new, strict=True))} for row, new in zip(rows, values, strict=True)
    ]


def _frame(data: Any, limit: int | None) -> Table:
    import narwhals as nw

    if hasattr(data, "collect"):
        raise BadRequestError(
            f"data = <{type(data).__name__}>: it is not computed yet; give data.collect().",
            param="data",
        )
    if getattr(getattr(data, "columns", None), "nlevels", 1) > 1:
        raise BadRequestError(
            "data: its columns have several levels; give them single names first.", param="data"
        )
    names = [str(name) for name in _names(data)]
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise BadRequestError(
            f"data: two columns are named {', '.join(map(repr, twice))}; rename one of them.",
            param="data",
        )
    try:
        frame = nw.from_native(data, eager_only=True)
    except TypeError:
        one_column = hasattr(data, "to_frame")  # a Series of pandas or polars
        remedy = "it is one column; give data.to_frame('text')." if one_column else _WANTED
        raise BadRequestError(f"data = <{type(data).__name__}>: {remedy}", param="data") from None
    return _Frame(frame, names, limit)


def _names(data: Any) -> list[Any]:
    names = getattr(data, "column_names", None)  # pyarrow's
    if names is None:
        names = getattr(data, "columns", None)
    return [] if names is None else list(names)


class _Frame:
    """A frame that narwhals reads.

    Args:
        frame: As narwhals wraps it.
        names: Its columns' names as texts.
        limit: The most rows that are read; None for all.
    """

    def __init__(self, frame: Any, names: list[str], limit: int | None) -> None:
        self._frame, self._limit = frame, limit
        self.columns: Sequence[str] | None = names
        self._length = len(frame) if limit is None else min(limit, len(frame))
        self.length: int | None = self._length

    def rows(self) -> Iterator[Row]:
        names = self.columns or ()
        every = self._frame.iter_rows(named=False, buffer_size=_BUFFER)
        return (dict(zip(names, row, strict=True)) for row in islice(every, self._length))

    def with_columns(self, rows: Sequence[Row], columns: Columns) -> Any:
        import narwhals as nw

        native = self._frame.to_native()
        library = nw.get_native_namespace(self._frame)
        if hasattr(native, "iloc"):
            return _with_pandas_columns(library, native, self._length, columns)
        head = self._frame if len(self._frame) == self._length else self._frame.head(self._length)
        added = [_series(name, *column, library.__name__) for name, column in columns.items()]
        return nw.to_native(head.with_columns(*added))


def _simple_kind(values: Iterable[Any], kind: str | None) -> str | None:
    """`kind`, if the values are of no other: pydantic may have made dates or decimals of them."""
    types = {type(value) for value in values if value is not None}
    allowed: Mapping[str | None, set[type]] = {
        "string": {str},
        "integer": {int},
        "number": {int, float},
        "boolean": {bool},
    }
    return kind if types <= allowed.get(kind, set()) else None


def _with_pandas_columns(pandas: Any, native: Any, length: int, columns: Columns) -> Any:
    head = native.iloc[:length]
    made = {}
    for name, (values, kind) in columns.items():
        missing = any(value is None for value in values)
        given: Any = list(values)
        kind = _simple_kind(values, kind)
        dtype: Any = {
            "integer": "Int64" if missing else "int64",
            "number": "float64",
            "boolean": "boolean" if missing else "bool",
            "string": "str" if int(pandas.__version__.partition(".")[0]) >= 3 else object,
        }.get(kind or "", object)
        try:
            series = pandas.Series(given, index=head.index, dtype=dtype)
        except (OverflowError, ValueError, TypeError):  # an integer of more than 64 bits
            series = pandas.Series(given, index=head.index, dtype=object)
        made[name] = series if kind is not None else series.infer_objects()
    return head.assign(**made)


def _aligned(values: Sequence[Any]) -> list[Any]:
    """Nested values whose mappings all have the same keys: polars would lose those of some."""
    given = [value for value in values if value is not None]
    if given and all(isinstance(value, dict) for value in given):
        keys = dict.fromkeys(key for value in given for key in value)
        columns = {key: iter(_aligned([value.get(key) for value in given])) for key in keys}
        return [
            None if value is None else {key: next(columns[key]) for key in keys} for value in values
        ]
    if given and all(isinstance(value, list) for value in given):
        items = iter(_aligned([item for value in given for item in value]))
        return [None if value is None else [next(items) for _ in value] for value in values]
    return list(values)


def _as_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-8", "backslashreplace").decode()  # half a character, of an error's text


def _series(name: str, values: Sequence[Any], kind: str | None, library: Any) -> Any:
    """A column of polars' or pyarrow's, of a type that holds all values."""
    import narwhals as nw

    kind = _simple_kind(values, kind)
    dtypes: Mapping[str, Any] = {
        "integer": nw.Int64,
        "number": nw.Float64,
        "boolean": nw.Boolean,
        "string": nw.String,
    }
    attempts: list[Any] = [dtypes[kind]] if kind else []
    values = _aligned(values)
    for dtype in [*attempts, None]:
        given = list(values)
        if dtype is nw.Float64:
            given = [None if value is None else float(value) for value in given]
        try:
            return nw.new_series(name, given, dtype, backend=library)
        except Exception:  # each library has errors of its own for mixed values
            continue
    texts = [None if value is None else _as_json(value) for value in values]
    return nw.new_series(name, texts, nw.String, backend=library)
