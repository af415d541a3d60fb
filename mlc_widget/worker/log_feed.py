"""What an engine logs, for one client, with a bound on what it has not acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Final

from mlc_widget.api.engine_log import EngineLog, EngineLogRecord
from mlc_widget.api.requests import JSONDict
from mlc_widget.protocol.messages import log_message

_INTERVAL_S: Final = 0.2
_MOST: Final = 200


class LogFeed:
    """Sends records to a client that said hello: at once, but only a few times in a second.

    The client acknowledges each message with ``logTaken``. Until then the newest records are kept,
    and sent later.

    Args:
        log: The log of the client's engine.
        send: Sends one message down.
    """

    def __init__(self, log: EngineLog, send: Callable[[JSONDict], None]) -> None:
        self._log = log
        self._send = send
        self._kept: deque[EngineLogRecord] = deque(maxlen=_MOST)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._planned = self._on_the_way = False
        self._sent_at = 0.0

    def start(self) -> None:
        """Send the records so far, and later ones as they come. Idempotent; on its loop."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._kept.extend(self._log.read())
            self._log.listeners.append(self._take)
            self._plan()

    def taken(self) -> None:
        """The client has acknowledged a message."""
        self._on_the_way = False
        if self._kept:
            self._plan()

    def close(self) -> None:
        """Send nothing more: the client is gone. Idempotent."""
        if self._take in self._log.listeners:
            self._log.listeners.remove(self._take)
        self._kept.clear()

    def _take(self, record: EngineLogRecord) -> None:
        """Keep a record for the next message; on any thread."""
        self._kept.append(record)
        if self._loop is not None and not self._planned:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._plan)

    def _plan(self) -> None:
        if self._loop is not None and not self._planned:
            self._planned = True
            self._loop.call_at(self._sent_at + _INTERVAL_S, self._flush)

    def _flush(self) -> None:
        self._planned = False
        if self._on_the_way or not self._kept or self._loop is None:
            return
        records = [self._kept.popleft() for _ in range(len(self._kept))]
        self._on_the_way = True
        self._sent_at = self._loop.time()
        self._send(log_message([record.to_wire() for record in records]))
