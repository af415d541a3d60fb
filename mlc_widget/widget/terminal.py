"""A load's progress without a notebook: one line that is overwritten, or a few plain lines."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, TextIO

from mlc_widget.api.engine_link import EngineLink, EngineSnapshot
from mlc_widget.api.log_text import one_line

_INTERVAL_S: Final = 0.1
_ERASE: Final = "\r\x1b[K"
_QUIET_S: Final = 5.0
"""A load that takes no longer writes nothing where there is no terminal."""
_LONGEST_GAP_S: Final = 300.0
"""The longest time between two lines there: some systems end a job that is silent for longer."""


class _LoadFollower(ABC):
    """Follows one load and then ends. A thread of its own writes, as a stream may block.

    Args:
        link: The engine.
        stream: Where to write.
    """

    def __init__(self, link: EngineLink, stream: TextIO) -> None:
        self._link = link
        self._stream = stream
        self._changed = threading.Condition()
        self._line = ""
        self._begun = self._ended = False
        self._unobserve: Callable[[], object] = lambda: None
        self._writer = threading.Thread(
            target=self._follow, name="mlc_widget progress", daemon=True
        )
        self._writer.start()
        link.call_soon(self._attach)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the load has ended and the last line is written."""
        self._writer.join(timeout)

    def _attach(self) -> None:
        self._unobserve = self._link.observe(self._on_engine)
        self._on_engine(self._link.snapshot)

    def _on_engine(self, snapshot: EngineSnapshot) -> None:
        loading = snapshot.state in ("starting", "loading")
        pending = loading or (snapshot.state == "idle" and snapshot.model_id is not None)
        over = (self._begun and not pending) or snapshot.state == "terminated"
        with self._changed:
            self._begun = self._begun or loading
            self._line = _ended_line(snapshot) if over else _loading_line(snapshot)
            self._ended = over
            self._changed.notify()
        if over:
            self._unobserve()

    def _follow(self) -> None:
        ended = False
        while not ended:
            with self._changed:
                # Not too often, but the end at once: what the user prints next comes after it.
                self._changed.wait_for(lambda: self._ended, self._pause())
                line, ended = self._line, self._ended
            with contextlib.suppress(OSError, ValueError):  # a stream that was closed
                self._show(line, ended)
                self._stream.flush()

    @abstractmethod
    def _pause(self) -> float:
        """Seconds until the next line is due."""

    @abstractmethod
    def _show(self, line: str, ended: bool) -> None:
        """Write how far the load is, or how it ended."""


class TerminalProgress(_LoadFollower):
    """Follows one load on a terminal, in one line that is overwritten."""

    _shown: str | None = None

    def _pause(self) -> float:
        return _INTERVAL_S

    def _show(self, line: str, ended: bool) -> None:
        if line == self._shown and not ended:
            return
        self._shown = line
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"{_ERASE}{line[:width]}" + ("\n" if ended and line else ""))


class PlainProgress(_LoadFollower):
    """Follows one load in a file or a pipe: a few lines, at ever longer intervals.

    The first one comes after some seconds, and each other one after twice the time, so that a load
    of a minute writes five lines, and one of ten minutes nine. A short load writes nothing.
    """

    def __init__(self, link: EngineLink, stream: TextIO) -> None:
        self._started = time.monotonic()
        self._due = _QUIET_S  # after the start
        self._written = False
        super().__init__(link, stream)

    def _pause(self) -> float:
        return max(self._due - (time.monotonic() - self._started), 0.0)

    def _show(self, line: str, ended: bool) -> None:
        if line and (self._written or not ended):
            self._stream.write(f"{line}\n")
            self._written = True
        passed = max(time.monotonic() - self._started, self._due)
        self._due = passed + min(passed, _LONGEST_GAP_S)


def _name(snapshot: EngineSnapshot) -> str:
    return one_line((snapshot.model_id or "").rstrip("/").rpartition("/")[2])


def _loading_line(snapshot: EngineSnapshot) -> str:
    name = _name(snapshot)
    if snapshot.state == "starting":
        return f"{name}: starting the worker …"
    report = snapshot.progress
    if snapshot.state != "loading" or report is None:
        return f"{name} …" if name else ""
    facts = [f"{100 * report.progress:.0f} %", report.phase]
    if report.bytes_total:
        facts.append(f"{(report.bytes_done or 0) / 1e6:.0f} of {report.bytes_total / 1e6:.0f} MB")
    if report.eta_s:
        facts.append(f"{report.eta_s:.0f} s left")
    return f"{name}: {', '.join(facts)}"


def _ended_line(snapshot: EngineSnapshot) -> str:
    """The line that stays; empty after an error, which is raised."""
    if snapshot.state != "ready" or snapshot.failed is not None:
        return ""
    name = _name(snapshot)
    took = f" in {snapshot.progress.time_elapsed:.1f} s" if snapshot.progress else ""
    return f"{name} is ready{took}."
