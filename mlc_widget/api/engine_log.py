"""What has happened to an engine: the result of `logs()`, and what collects it.

An `EngineLog` has records of two kinds: what a core notes about its own engine, such as a worker's
death, and what the package's loggers say (``mlc_widget.*``), which is often about a whole process.
Neither changes how the user's own handlers get those loggers' records.
"""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, Self, TypeAlias

from mlc_widget.api.errors import MLCEngineError
from mlc_widget.api.log_text import class_name, describe, message_of, one_line

LogSide: TypeAlias = Literal["notebook", "worker"]
LogLevel: TypeAlias = Literal["INFO", "WARNING", "ERROR", "CRITICAL"]

MOST_RECORDS: Final = 1000
"""The number of records that an engine keeps; beyond it, the oldest are dropped."""
_LONGEST_NAME: Final = 100
_LONGEST_ID: Final = 512
_LEVELS: Final[Mapping[str, LogLevel]] = {
    "INFO": "INFO", "WARNING": "WARNING", "ERROR": "ERROR", "CRITICAL": "CRITICAL",
}  # fmt: skip
_logger: Final = logging.getLogger("mlc_widget")


@dataclass(frozen=True, slots=True)
class EngineLogRecord:
    """One line of an engine's log. It quotes no prompt, no answer and no file.

    Attributes:
        time: When it was made, in seconds since 1970, by the clock of its side's machine.
        side: Where: ``notebook`` is the process that has the engine object.
        level: ``INFO``, ``WARNING``, ``ERROR`` or ``CRITICAL``.
        logger: The part of the package that says it.
        message: What happened, of at most 500 characters. "…" stands for what is not shown.
        request_id: The request that it is about, if it is about one.
    """

    time: float
    side: LogSide
    level: LogLevel
    logger: str
    message: str
    request_id: str | None = None

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.time, UTC).astimezone()
        about = "" if self.request_id is None else f" (request {self.request_id})"
        clock = when.isoformat(" ", "milliseconds")
        return f"{clock} {self.side} {self.level} {self.logger}: {self.message}{about}"

    def to_wire(self) -> dict[str, Any]:
        """The record as an object of a message; its side is the sender's."""
        return {
            "time": self.time,
            "level": self.level,
            "logger": self.logger,
            "message": self.message,
            "requestId": self.request_id,
        }

    @classmethod
    def from_wire(cls, content: Mapping[str, Any]) -> Self:
        """A worker's record.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: it is none.
        """
        when = float(content["time"])
        datetime.fromtimestamp(when, UTC)  # else it could not be shown
        return cls(
            when,
            "worker",
            _LEVELS[content["level"]],
            one_line(str(content["logger"]), _LONGEST_NAME),
            one_line(str(content["message"])),
            _request_id(content.get("requestId")),
        )


Listener: TypeAlias = Callable[[EngineLogRecord], object]


class EngineLog:
    """The last records of one engine. May be used from any thread; nothing here waits for a lock.

    Args:
        own_only: Whether this process works for several users of its engines, so that a record of
            the package's loggers counts only if it was made in the context of this log; see `use`.
    """

    def __init__(self, *, own_only: bool = False) -> None:
        self.own_only = own_only
        self.listeners: list[Listener] = []
        """Called with each new record, on any thread."""
        self._records: deque[EngineLogRecord] = deque(maxlen=MOST_RECORDS)
        self._state = "idle"
        _open[id(self)] = self
        _logger.addHandler(_collector)  # which it has once, however often that is said

    def close(self) -> None:
        """Take no more records of the package's loggers. Idempotent."""
        _open.pop(id(self), None)
        if not _open:
            _logger.removeHandler(_collector)
            if _open:  # another thread has opened one in between
                _logger.addHandler(_collector)

    def use(self) -> None:
        """Have what this task and those that it starts log be this engine's records only."""
        _current.set(self)

    def read(self) -> list[EngineLogRecord]:
        """All records that are kept, by their time."""
        return sorted(self._records.copy(), key=lambda record: record.time)

    def add(self, record: EngineLogRecord) -> None:
        """Take a record."""
        self._records.append(record)
        for listener in list(self.listeners):
            listener(record)

    def take_all(self, contents: Any) -> None:
        """Take records that a worker has sent; what is none is left out."""
        for content in contents if isinstance(contents, list) else ():
            with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError, OSError):
                self.add(EngineLogRecord.from_wire(content))

    def note(
        self, message: str, *, level: LogLevel = "INFO", request_id: str | None = None
    ) -> None:
        """Note what has happened. The message must quote nothing of a user's or a model's."""
        about = _request_id(request_id)
        text = one_line(message)
        self.add(EngineLogRecord(time.time(), "notebook", level, _logger.name, text, about))

    def failed(self, what: str, error: BaseException, request_id: str | None = None) -> None:
        """Note an error: its class and, if that is not one of ours, the lines it passed through."""
        if isinstance(error, MLCEngineError):
            why, request_id = class_name(error), error.request_id or request_id
        else:
            why = describe(error)
        self.note(f"{what} failed: {why}", level="WARNING", request_id=request_id)

    @contextlib.contextmanager
    def noting_failure(self, what: str, request_id: str | None = None) -> Iterator[None]:
        """Note the error with which this block ends, if it does."""
        try:
            yield
        except Exception as error:
            self.failed(what, error, request_id)
            raise

    def note_state(self, state: str, error: MLCEngineError | None) -> None:
        """Note the engine's state, with its error if it has one, unless it is as before."""
        if error is not None and state != "terminated":
            state = f"{state}, {class_name(error)}"
        if state != self._state:
            self._state = state
            self.note(f"The engine's state: {state}.")


_open: Final[weakref.WeakValueDictionary[int, EngineLog]] = weakref.WeakValueDictionary()
_current: Final[ContextVar[EngineLog | None]] = ContextVar("mlc_widget_engine_log", default=None)


class _Collector(logging.Handler):
    """Passes records of the package's loggers to the logs that they concern."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record; without a lock, which a forked process might find held."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        _print_if_unhandled(record)
        if record.levelno < logging.INFO:
            return
        made = EngineLogRecord(
            record.created,
            "notebook",
            _level(record.levelno),
            one_line(record.name, _LONGEST_NAME),
            message_of(record),
            _request_id(getattr(record, "request_id", None)),
        )
        own = _current.get()
        for log in [own] if own is not None else _all_open():
            if log is own or not log.own_only:
                log.add(made)


def _all_open() -> list[EngineLog]:
    return [log for ref in _open.valuerefs() if (log := ref()) is not None]


def _request_id(given: object) -> str | None:
    return one_line(given, _LONGEST_ID) if isinstance(given, str) else None


def _level(number: int) -> LogLevel:
    names: tuple[LogLevel, ...] = ("INFO", "WARNING", "ERROR", "CRITICAL")
    return names[min(max(number // 10 - 2, 0), 3)]


def _print_if_unhandled(record: logging.LogRecord) -> None:
    """Do what `logging` does with records for which there is no handler, as if this were none."""
    last = logging.lastResort
    if last is None or record.levelno < last.level:
        return
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None:
        if any(handler is not _collector for handler in logger.handlers):
            return
        logger = logger.parent if logger.propagate else None
    last.handle(record)


_collector: Final = _Collector()
