"""The home loop's half of a server: where it listens, and what is answered there."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Any, Final

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.iostream import IOStream
from tornado.web import Application

from mlc_widget.api.serving.access import Access
from mlc_widget.api.serving.body_budget import MAX_ALL_BODIES, BodyBudget
from mlc_widget.api.serving.handler import EngineRequestHandler, ServedEngine

_MAX_HEADER_BYTES: Final = 64 * 1024
_IDLE_S: Final = 60.0
_BODY_S: Final = 120.0
_CLOSE_S: Final = 5.0
_LAST_WORDS_S: Final = 1.0
_MAX_CONNECTIONS: Final = 4096
_FILES_TAKEN: Final = 2
"""Connections may take one of every two files that this process may open."""


class BoundedHTTPServer(HTTPServer):
    """Ends a connection at once while there are too many.

    Once no file can be opened, accepting a connection fails again and again, without a pause.
    """

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Called by tornado in place of a constructor."""
        super().initialize(*args, **kwargs)
        self._open = 0
        self._most = most_connections()

    @property
    def is_full(self) -> bool:
        """Whether a further connection would be ended at once."""
        return self._open >= self._most

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Take a connection; called by tornado."""
        if self.is_full:
            stream.close()
            return
        self._open += 1
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        """A connection has ended; called by tornado."""
        self._open -= 1
        super().on_close(server_conn)


def most_connections() -> int:
    """How many connections leave files for the rest of the process."""
    try:
        import resource  # not on Windows
    except ImportError:
        return _MAX_CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return min(files // _FILES_TAKEN, _MAX_CONNECTIONS)


class Listener:
    """Listens on sockets from the start. On the home loop.

    Args:
        sockets: Bound already; they are closed with it.
        served_to: The engine that answers a request.
        all_served: All engines that do so.
        access: Checks who asks; None where whoever can connect may.
        kind: The class of the HTTP server.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        served_to: Callable[[HTTPServerRequest], ServedEngine],
        all_served: Callable[[], Iterable[ServedEngine]],
        access: Access | None,
        kind: type[BoundedHTTPServer] = BoundedHTTPServer,
    ) -> None:
        self._all_served = all_served
        options = {
            "served_to": served_to,
            "access": access,
            "bodies": BodyBudget(MAX_ALL_BODIES),
            "is_closing": lambda: self._http is None,
        }
        application = Application(
            [(r".*", EngineRequestHandler, options)], log_function=lambda _: None
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
        """Stop listening, give running requests a moment to end, and close all connections.

        Requests that do not end in that time get an error.
        """
        http, self._http = self._http, None
        if http is None:
            return
        http.stop()
        if running := {task for served in self._all_served() for task in served.answering}:
            await asyncio.wait(running, timeout=_CLOSE_S)
        accepted = [one for served in self._all_served() for one in served.accepted]
        if last_words := {asyncio.ensure_future(one.give_up()) for one in accepted}:
            _, unread = await asyncio.wait(last_words, timeout=_LAST_WORDS_S)
            for task in unread:
                task.cancel()
        await http.close_all_connections()
