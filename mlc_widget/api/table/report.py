"""What a map gives beside its table: each row as it finishes, and the counts of all."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mlc_widget.api.errors import MLCEngineError


@dataclass(frozen=True, slots=True)
class MapRow:
    """A finished row of `AsyncMLCEngineInterface.map_stream`.

    Attributes:
        index: Its place in the data, from 0. Rows come as they finish, which may be in any order.
        row: Its values by column, as they were given.
        values: The new columns: the reply, or the fields of the schema. All are None if the row
            failed, or if there was nothing to ask, as all columns of the prompt are missing.
        error: Why it failed; None if it did not.
        cached: Whether its reply was found, instead of computed: in the cache, or because a row
            with the same prompt was being computed.
    """

    index: int
    row: Mapping[str, Any]
    values: Mapping[str, Any]
    error: MLCEngineError | None = None
    cached: bool = False


@dataclass(slots=True)
class MapReport:
    """Counts of a map, kept up to date while it runs.

    Make one and give it as ``report=``; it begins anew with each map.

    Attributes:
        total: The number of rows; None if the data does not tell, as an iterator.
        rows: Rows that have finished, in whatever way.
        cached: Rows of these whose replies were found instead of computed.
        skipped: Rows without a request, as all columns of their prompt are missing.
        errors: Rows that failed.
        truncated: Replies that reached ``max_tokens`` or the end of the context window.
        prompt_tokens: Tokens of all prompts that were computed.
        completion_tokens: Tokens of all replies that were computed.
        first_error: The message of the first row that failed, with the row's number.
    """

    total: int | None = None
    rows: int = 0
    cached: int = 0
    skipped: int = 0
    errors: int = 0
    truncated: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_error: str | None = None
    _started: float = field(default=0.0, repr=False)
    _ended: float | None = field(default=None, repr=False)

    def begin(self, total: int | None) -> None:
        """Begin anew; called by the map."""
        for each in fields(self):
            setattr(self, each.name, each.default)
        self.total = total
        self._started = time.monotonic()

    def end(self) -> None:
        """Stop the clock; called by the map."""
        self._ended = time.monotonic()

    def add(self, row: MapRow) -> None:
        """Count a finished row; called by the map."""
        self.rows += 1
        self.cached += row.cached
        if row.error is not None:
            self.errors += 1
            if self.first_error is None:
                self.first_error = f"row {row.index}: {row.error.message}"

    @property
    def seconds(self) -> float:
        """How long the map has run, or ran."""
        if not self._started:
            return 0.0
        return (time.monotonic() if self._ended is None else self._ended) - self._started

    @property
    def rows_per_s(self) -> float:
        """Finished rows per second."""
        return self.rows / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """An estimate of the time left in seconds; None if it is not known."""
        if self.total is None or not self.rows_per_s:
            return None
        return max(0, self.total - self.rows) / self.rows_per_s

    def __str__(self) -> str:
        """One line, such as ``120 of 500 rows, 14.2 rows/s, 27 s left, 3 errors, 20 cached``."""
        of = "" if self.total is None else f" of {self.total:,}"
        parts = [f"{self.rows:,}{of} rows", f"{self.rows_per_s:,.1f} rows/s"]
        left = self.seconds_left
        if self._ended is not None:
            parts.append(f"{self.seconds:,.1f} s")
        elif left is not None:
            parts.append(f"{left:,.0f} s left")
        for count, word in (
            (self.errors, "error" if self.errors == 1 else "errors"),
            (self.cached, "cached"),
            (self.skipped, "skipped"),
            (self.truncated, "cut off"),
        ):
            if count:
                parts.append(f"{count:,} {word}")
        return ", ".join(parts)
