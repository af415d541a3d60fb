"""Load reports for one client, with a bound on those that it has not acknowledged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

from mlc_widget.api.progress import InitProgressReport
from mlc_widget.api.requests import JSONDict
from mlc_widget.protocol.messages import progress_message

_WINDOW: Final = 16


class ProgressFeed:
    """Sends reports while the client waits for a load.

    A client that said hello acknowledges each with ``progressTaken``. While too many are not
    acknowledged, only the newest report is kept, and sent later.

    Args:
        send: Sends one message down.
    """

    def __init__(self, send: Callable[[JSONDict], None]) -> None:
        self.extended = False
        self._send = send
        self._waiting = 0
        self._on_the_way = 0
        self._newest: InitProgressReport | None = None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """While the client waits for a load; the newest report goes out before its answer."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            self._flush()

    def report(self, report: InitProgressReport) -> None:
        """Send a report, or keep it until the client has acknowledged earlier ones."""
        if self._waiting:
            self._newest = report
            if not self.extended or self._on_the_way < _WINDOW:
                self._flush()

    def taken(self) -> None:
        """The client has acknowledged one report."""
        self._on_the_way = max(self._on_the_way - 1, 0)
        self._flush()

    def _flush(self) -> None:
        report, self._newest = self._newest, None
        if report is not None:
            self._on_the_way += 1
            self._send(progress_message(report, extended=self.extended))
