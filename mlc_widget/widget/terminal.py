"""A load's progress in a terminal: one line that is overwritten."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable
from typing import Final, TextIO

from mlc_widget.api.engine_link import EngineLink, EngineSnapshot

_INTERVAL_S: Final = 0.1
_ERASE: Final = "\r\x1b[K"


class TerminalProgress:
    """Follows one load and then ends. A thread of its own writes, as a terminal may block.

    Args:
        link: The engine.
        stream: The terminal.
    """

    def __init__(self, link: EngineLink, stream: TextIO) -> None:
        self._link = link
        self._stream = stream
        self._changed = threading.Condition()
        self._line = ""
        self._begun = self._ended = False
        self._unobserve: Callable[[], object] = lambda: None
        self._writer = threading.Thread(target=self._write, name="mlc_widget progress", daemon=True)
        self._writer.start()
        link.call_soon(self._attach)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the load has ended and the last line is written."""
        self._writer.join(timeout)

    def _attach(self) -> None:
        self._unobserve = self._link.observe(self._follow)
        self._follow(self._link.snapshot)

    def _follow(self, snapshot: EngineSnapshot) -> None:
        loading = snapshot.state in ("starting", "loading")
        pending = loading or (snapshot.state == "idle" and snapshot.model_id is not None)
        over = self._begun and not pending
        with self._changed:
            self._begun = self._begun or loading
            self._line = _ended_line(snapshot) if over else _loading_line(snapshot)
            self._ended = over
            self._changed.notify()
        if over:
            self._unobserve()

    def _write(self) -> None:
        shown: str | None = None
        ended = False
        while not ended:
            with self._changed:
                # Not too often, but the end at once: what the user prints next comes after it.
                self._changed.wait_for(lambda: self._ended, _INTERVAL_S)
                line, ended = self._line, self._ended
            if line == shown and not ended:
                continue
            width = shutil.get_terminal_size().columns - 1
            with contextlib.suppress(OSError, ValueError):  # a terminal that went away
                end = "\n" if ended and line else ""
                self._stream.write(f"{_ERASE}{line[:width]}{end}")
                self._stream.flush()
            shown = line


def _loading_line(snapshot: EngineSnapshot) -> str:
    name = (snapshot.model_id or "").rstrip("/").rpartition("/")[2]
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
    name = (snapshot.model_id or "").rstrip("/").rpartition("/")[2]
    took = f" in {snapshot.progress.time_elapsed:.1f} s" if snapshot.progress else ""
    return f"{name} is ready{took}."
