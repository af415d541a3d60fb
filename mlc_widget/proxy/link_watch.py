"""Finds out whether a worker on another machine can still be reached, and tells it the same."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from mlc_widget.api.errors import EngineDeadError, MLCEngineError
from mlc_widget.proxy.connection import WorkerConnection

_INTERVAL_S: Final = 5.0
_TRIES: Final = 4
"""Signs of life, at least, within the timeout."""


class LinkWatch:
    """Watches the way to a worker, on the home loop.

    It is lost once the kernel's heartbeat has not come back for the timeout, or once a connection
    on which answers come was closed: those that were on it are lost. The heartbeat is answered by a
    thread of the kernel's own, however busy the worker is; whether that hangs is for `HangWatch` to
    say. The worker gets a ``keepAlive`` with each heartbeat, and ends if none comes for as long.

    Args:
        connection: Gets lost.
        iopub: The socket on which answers come.
        heartbeat: A socket to the kernel's heartbeat; closed at the end.
        timeout: Seconds of silence after which the link counts as lost.
    """

    def __init__(
        self, connection: WorkerConnection, iopub: Any, heartbeat: Any, timeout: float
    ) -> None:
        self._connection = connection
        self._iopub, self._heartbeat = iopub, heartbeat
        self._timeout = timeout
        self._interval = min(_INTERVAL_S, timeout / _TRIES)
        self._monitor = iopub.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._tasks = [
            asyncio.create_task(self._keep_in_touch()),
            asyncio.create_task(self._await_disconnection()),
        ]

    def close(self) -> None:
        """Stop watching. Idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            with contextlib.suppress(zmq.ZMQError):  # the socket is closed already
                self._iopub.disable_monitor()
            self._monitor.close(linger=0)
            self._heartbeat.close(linger=0)

    async def _keep_in_touch(self) -> None:
        with contextlib.suppress(MLCEngineError, zmq.ZMQError):  # the worker is gone
            while True:
                self._connection.post("keepAlive")
                await self._heartbeat.send(b"ping")
                if not await self._echoed():
                    self._lose(f"has not answered for {self._timeout:g} s (`link_timeout`)")
                    return
                await asyncio.sleep(self._interval)

    async def _echoed(self) -> bool:
        """Wait for the heartbeat to come back, in time."""
        silence, last = 0.0, time.monotonic()
        while not await self._heartbeat.poll(self._interval * 1000):
            now = time.monotonic()
            # The time for which this process or its machine was suspended does not count.
            silence += min(now - last, 2 * self._interval)
            last = now
            if silence >= self._timeout:
                return False
            self._connection.post("keepAlive")
        await self._heartbeat.recv()
        return True

    async def _await_disconnection(self) -> None:
        with contextlib.suppress(zmq.ZMQError):
            event = parse_monitor_message(await self._monitor.recv_multipart())
            if event["event"] == zmq.EVENT_DISCONNECTED:
                self._lose("was cut off")

    def _lose(self, how: str) -> None:
        self._connection.lose(EngineDeadError(f"The worker {how}: its machine, or the way to it."))
