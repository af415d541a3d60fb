"""What a map did, as text and as HTML that is inert everywhere, for the saved notebook."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any, Final

from mlc_widget.api.requests import JSONDict
from mlc_widget.api.table.cells import plain

_CELL: Final = 160
"""Characters of a cell that are shown."""
_CONTAINERS: Final = (list, tuple, dict, set, frozenset)
_ITEMS: Final = 8
_DEPTH: Final = 3
"""Items of a list, and levels of nesting, that are shown."""
_STATES: Final[Mapping[str, str]] = {
    "running": "running",
    "stopping": "stopping",
    "paused": "paused",
    "done": "done",
    "stopped": "stopped; the rows that are done are kept",
    "failed": "ended early; the rows that are done are in the cache",
}


def short_text(value: Any, depth: int = 0) -> str:
    """A value in one line of bounded length; nothing for a missing one.

    Made without writing all of it: a cell may have megabytes.
    """
    value = plain(value)
    if value is None:
        return ""
    if isinstance(value, bytes | bytearray | memoryview):
        value = f"{len(value):,} bytes"
    elif isinstance(value, float):
        value = f"{value:.6g}"
    elif depth > _DEPTH and isinstance(value, _CONTAINERS):
        value = "…"
    elif isinstance(value, Mapping):
        items = list(zip(range(_ITEMS), value.items(), strict=False))
        value = ", ".join(
            f"{short_text(k, depth + 1)}: {short_text(v, depth + 1)}" for _, (k, v) in items
        )
    elif isinstance(value, _CONTAINERS):
        value = ", ".join(
            short_text(item, depth + 1) for _, item in zip(range(_ITEMS), value, strict=False)
        )
    elif not isinstance(value, str):
        try:
            value = str(value)
        except Exception:  # an object of the user's
            value = type(value).__name__
    cut = value[: _CELL * 4]
    line = " ".join(cut.split())
    if len(line) <= _CELL and len(cut) == len(value):
        return line
    return line[: _CELL - 1] + "…"


def summary_text(shown: JSONDict) -> str:
    """One line, such as ``map: done, 500 of 500 rows, 12.1 rows/s, 41.3 s, 2 errors``."""
    return "map: " + ", ".join([_STATES.get(shown["state"], ""), *_facts(shown)])


def _facts(shown: JSONDict) -> list[str]:
    of = "" if shown["total"] is None else f" of {shown['total']:,}"
    facts = [f"{shown['rows']:,}{of} rows", f"{shown['rows_per_s']:,.1f} rows/s"]
    if shown["tokens_per_s"]:
        facts.append(f"{shown['tokens_per_s']:,.0f} tok/s")
    facts.append(f"{shown['elapsed']:,.1f} s")
    for name, word in (
        ("errors", "error" if shown["errors"] == 1 else "errors"),
        ("cached", "cached"),
        ("skipped", "skipped"),
        ("truncated", "cut off"),
    ):
        if shown[name]:
            facts.append(f"{shown[name]:,} {word}")
    return facts


def summary_html(shown: JSONDict) -> str:
    """The same as `summary_text`, and a table of the last rows."""
    parts = [f"<p>{html.escape(summary_text(shown))}</p>"]
    if shown["first_error"]:
        parts.append(f"<p>{html.escape('First error: ' + shown['first_error'])}</p>")
    if shown["last"]:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in ("row", *shown["columns"]))
        rows = "".join(map(_row, shown["last"]))
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
    return "".join(parts)


def _row(row: JSONDict) -> str:
    cells = [f"{row['index']:,}", *row["cells"]]
    if row["error"] is not None:
        cells[-1] = row["error"]
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
