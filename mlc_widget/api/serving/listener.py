"""The home loop's half of a server: where it listens, and what is answered there."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Final

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.web import Application

from mlc_widget.api.serving.handler import EngineRequestHandler, ServedEngine

_MAX_HEADER_BYTES: Final = 64 * 1024
_IDLE_S: Final = 60.0
_BODY_S: Final = 120.0
_CLOSE_S: Final = 5.0


class Listener:
    """Listens on sockets from the start. On the home loop.

    Args:
        sockets: Bound already; they are closed with it.
        served_to: The engine that answers a request.
        all_served: All engines that do so.
        kind: The class of the HTTP server.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        served_to: Callable[[HTTPServerRequest], ServedEngine],
        all_served: Callable[[], Iterable[ServedEngine]],
        kind: type[HTTPServer] = HTTPServer,
    ) -> None:
        self._all_served = all_served
        application = Application(
            [(r".*", EngineRequestHandler, {"served_to": served_to})], log_function=lambda _: None
        )
        self._http: HTTPServer | None = kind(
            application,
            max_header_size=_MAX_HEADER_BYTES,
            max_body_size=2**62,  # the handler refuses large ones, with a reason
            idle_connection_timeout=_IDLE_S,
            body_timeout=_BODY_S,
        )
        self._http.add_sockets(sockets)

    async def close(self) -> None:
        """Stop listening, give running requests a moment to end, and close all connections."""
        http, self._http = self._http, None
        if http is None:
            return
        http.stop()
        if running := {task for served in self._all_served() for task in served.answering}:
            _, late = await asyncio.wait(running, timeout=_CLOSE_S)
            for task in late:
                task.cancel()
        await http.close_all_connections()
