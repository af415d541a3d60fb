"""What a map gives beside its table: each row as it finishes, and the counts of all."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from mlc_widget.api.errors import MLCEngineError

MapState: TypeAlias = Literal["waiting", "running", "paused", "done", "stopped", "failed"]
"""What a map is at; ``failed`` is also one that was interrupted or left."""


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
    """Counts of a map, kept up to date while it runs, and the way to pause or stop it.

    Make one and give it as ``report=``; each map starts it from zero. All of it may be used from
    any thread.

    Attributes:
        total: The number of rows; None if the data does not tell, such as an iterator.
        rows: Rows that have finished, in whatever way.
        cached: Those of them whose replies were found instead of computed.
        skipped: Rows without a request, as all columns of their prompt are missing.
        errors: Rows that failed.
        truncated: Replies that reached ``max_tokens`` or the end of the context window.
        prompt_tokens: Tokens of all prompts that were computed.
        completion_tokens: Tokens of all replies that were computed.
        tool_calls: Calls of ``tools`` that were made.
        tool_errors: Those of them that raised an exception, which the model was told.
        first_error: The message of the first row that failed, with the row's number, or of what
            ended the map.
    """

    total: int | None = None
    rows: int = 0
    cached: int = 0
    skipped: int = 0
    errors: int = 0
    truncated: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tool_calls: int = 0
    tool_errors: int = 0
    first_error: str | None = None
    _started: float = field(default=0.0, repr=False)
    _ended: float | None = field(default=None, repr=False)
    _state: MapState = field(default="waiting", repr=False)
    _stops: bool = field(default=False, repr=False)
    _paused_at: float | None = field(default=None, repr=False)
    _paused_s: float = field(default=0.0, repr=False)

    def begin(self, total: int | None) -> None:
        """Start from zero; called by the map."""
        stops = self._stops and self._state == "waiting"
        for each in fields(self):
            setattr(self, each.name, each.default)
        self.total = total
        self._started = time.monotonic()
        self._state = "running"
        self._stops = stops

    def end(self, state: MapState = "done") -> None:
        """Stop the clock; called by the map."""
        self._unpause()
        self._ended = time.monotonic()
        self._state = state

    def pause(self) -> None:
        """Have the map send no more rows until `resume`; those that run are finished.

        Without effect if no map runs.
        """
        if self._state == "running":
            self._paused_at = time.monotonic()
            self._state = "paused"

    def resume(self) -> None:
        """Go on after `pause`."""
        if self._state == "paused":
            self._unpause()
            self._state = "running"

    def _unpause(self) -> None:
        if self._paused_at is not None:
            self._paused_s += time.monotonic() - self._paused_at
            self._paused_at = None

    def stop(self) -> None:
        """Have the map end now, and return what is done.

        The rows that run end within a step. A map that has not begun yet, as its model is still
        loading, ends as soon as it begins. Without effect on one that has ended.
        """
        if self._state in ("waiting", "running", "paused"):
            self._stops = True

    @property
    def state(self) -> MapState:
        """Whether the map runs, and how it ended."""
        return self._state

    @property
    def stops(self) -> bool:
        """Whether `stop` was called."""
        return self._stops

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
    def active_seconds(self) -> float:
        """`seconds` without the time for which it was paused."""
        paused = self._paused_s
        if (since := self._paused_at) is not None:
            paused += time.monotonic() - since
        return max(0.0, self.seconds - paused)

    @property
    def rows_per_s(self) -> float:
        """Finished rows per second in which the map was not paused."""
        return self.rows / self.active_seconds if self.active_seconds else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens of computed replies per second in which the map was not paused."""
        return self.completion_tokens / self.active_seconds if self.active_seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """An estimate of the time left in seconds; None if it is not known.

        It assumes that all remaining rows must be computed, as fast as the earlier ones; rows that
        were found took no time.
        """
        if self.total is None or not self.rows or not self.active_seconds:
            return None
        done = (self.rows - self.cached - self.skipped) or self.rows
        return max(0, self.total - self.rows) * self.active_seconds / done

    def __str__(self) -> str:
        """One line, such as ``120 of 500 rows, 14.2 rows/s, 27 s left, 3 errors, 20 cached``."""
        of = "" if self.total is None else f" of {self.total:,}"
        parts = [f"{self.rows:,}{of} rows", f"{self.rows_per_s:,.1f} rows/s"]
        left = self.seconds_left
        if self._ended is not None:
            parts.append(f"{self.seconds:,.1f} s")
        elif left is not None:
            parts.append(f"{left:,.0f} s left")
        if self._state in ("paused", "stopped"):
            parts.append(self._state)
        for count, word in (
            (self.errors, "error" if self.errors == 1 else "errors"),
            (self.cached, "cached"),
            (self.skipped, "skipped"),
            (self.truncated, "cut off"),
            (self.tool_calls, "tool call" if self.tool_calls == 1 else "tool calls"),
            (self.tool_errors, "failed tool call" + "s" * (self.tool_errors != 1)),
        ):
            if count:
                parts.append(f"{count:,} {word}")
        return ", ".join(parts)
