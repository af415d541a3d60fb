"""An engine for each user of a group's socket, so that none meets another's requests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httputil import HTTPServerRequest
from tornado.iostream import IOStream

from mlc_widget.api.closing import Closing
from mlc_widget.api.copies import NotCopyable
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.serving.group_socket import GroupSocket, peer_user
from mlc_widget.api.serving.group_users import GroupUsers, UserEngine
from mlc_widget.api.serving.handler import ServedEngine
from mlc_widget.api.serving.listener import BoundedHTTPServer, Listener

_MAX_CONNECTIONS: Final = 320


class GroupServer(NotCopyable, Closing):
    """Answers OpenAI's API on a group's socket.

    Each user has an engine with the same models. The engines share a worker, which divides its
    time among them. What a user can ask for is what `OpenAIRoutes` answers: nobody can have code
    run, a file read or written, or a model loaded.

    Args:
        socket: Where to listen; it is closed with the server.
        make_engine: Makes an engine without a model for a user; called on the home loop.
        models: What each engine loads.
        idle_timeout: Seconds after which the engine of a user who has asked nothing ends, with
            what it has stored for `/v1/responses`; `math.inf` for never.
    """

    _instead = "it is a socket of this process."

    def __init__(
        self,
        socket: GroupSocket,
        make_engine: Callable[[int], UserEngine],
        models: Sequence[str],
        *,
        idle_timeout: float = math.inf,
    ) -> None:
        self._home = HomeLoop.shared()
        self._socket = socket
        self._users = GroupUsers(make_engine, models, self._home, idle_timeout)

        async def listen() -> Listener:
            users = self._users
            users.start()

            def served_to(request: HTTPServerRequest) -> ServedEngine:
                stream = cast("HTTP1Connection", request.connection).stream
                return users.served_to(cast("_UserStream", stream).user)

            return Listener([socket.listening], served_to, users.all_served, None, _UserHTTPServer)

        self._listener = self._home.wait_blocking(listen)

    def interrupt_generate(self) -> None:
        """End all running requests; each answer ends with what it has."""
        self._home.wait_blocking(self._users.interrupt)

    def close(self) -> None:
        """Stop listening, and end all engines. Running requests have 5 s to end. Idempotent."""

        async def end() -> None:
            await self._listener.close()
            await self._users.end()

        self._home.wait_blocking(end)
        self._socket.close()


class _UserStream(IOStream):
    """A connection, of which it is known whose it is."""

    user: int


class _UserHTTPServer(BoundedHTTPServer):
    """Knows whose each connection is, and keeps one user from taking all that this process may."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Called by tornado in place of a constructor."""
        super().initialize(*args, **kwargs)
        self._connections_of: Counter[int] = Counter()

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Take a connection; called by tornado."""
        assert stream.socket is not None
        user = peer_user(stream.socket)
        # `on_close` is called for connections that were taken only, so no other may be counted.
        if self.is_full or self._connections_of[user] >= _MAX_CONNECTIONS:
            stream.close()
            return
        self._connections_of[user] += 1
        cast("_UserStream", stream).user = user
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        """A connection has ended; called by tornado."""
        stream = cast("HTTP1ServerConnection", server_conn).stream
        self._connections_of[cast("_UserStream", stream).user] -= 1
        super().on_close(server_conn)
