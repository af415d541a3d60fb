"""Texts with the names of columns in braces, filled in for each row."""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Collection, Mapping
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_values import shortened
from mlc_widget.api.table.cells import cell_text

_SHOWN: Final = 30
_WIDE: Final = re.compile(r"\d{5,}")
"""A width or precision that would fill memory."""


class Template:
    """A text such as ``"Sentiment of: {review}"``.

    A name is a column's whole name, so that ``{a.b}`` and ``{a[0]}`` are the columns ``a.b`` and
    ``a[0]``: nothing of a value is called or looked up. ``{{`` and ``}}`` are braces. What is
    filled in is never read as a template.

    Args:
        text: The text.
        param: The field that it comes from, for messages.

    Raises:
        BadRequestError: The braces are wrong.
    """

    def __init__(self, text: str, param: str) -> None:
        self._param = param
        self._parts: list[tuple[str, str | None, str | None, str]] = []
        try:
            for literal, column, spec, conversion in string.Formatter().parse(text):
                self._parts.append((literal, column, conversion, spec or ""))
        except ValueError as error:
            raise self._wrong(text, f"{error}. Write {{{{ and }}}} for braces.") from None
        for _, column, conversion, spec in self._parts:
            if column is None:
                continue
            if not column:
                raise self._wrong(text, "{} names no column; write {column}.")
            if "{" in spec or _WIDE.search(spec):
                raise self._wrong(text, f"the format {spec!r} of {{{column}}} is not supported.")
            if conversion not in (None, "r", "s", "a"):
                raise self._wrong(text, f"!{conversion} is not one of !r, !s and !a.")
        self.columns = frozenset(column for _, column, _, _ in self._parts if column is not None)
        """The names in braces."""

    def _wrong(self, text: str, remedy: str) -> BadRequestError:
        message = f"{self._param} = {shortened(text)}: {remedy}"
        return BadRequestError(message, param=self._param)

    def fill(self, row: Mapping[str, Any]) -> str:
        """The text for a row; a column that the row does not have counts as missing.

        Raises:
            BadRequestError: A value cannot be written; `param` is the column.
        """
        texts: list[str] = []
        for literal, column, conversion, spec in self._parts:
            texts.append(literal)
            if column is not None:
                texts.append(cell_text(column, row.get(column), conversion, spec))
        return "".join(texts)


def check_columns(named: Collection[str], columns: Collection[str]) -> None:
    """Refuse names that no column has.

    Raises:
        BadRequestError: The message lists the columns, and the nearest name.
    """
    for name in sorted(named):
        if name in columns:
            continue
        shown = ", ".join(list(columns)[:_SHOWN]) + (", …" if len(columns) > _SHOWN else "")
        near = difflib.get_close_matches(name, columns, 1, 0.5)
        hint = f" Did you mean {{{near[0]}}}?" if near else ""
        raise BadRequestError(
            f"prompt: {{{name}}} is not a column of the data, which has: {shown or 'none'}.{hint} "
            "Braces that are meant as text are written {{ and }}.",
            param="prompt",
        )
