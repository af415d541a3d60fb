"""An engine for each user of a group's socket, so that none meets another's requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast

from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httputil import HTTPServerRequest
from tornado.iostream import IOStream

from mlc_widget.api.closing import Closing
from mlc_widget.api.copies import NotCopyable
from mlc_widget.api.engine_link import EngineLink
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.openai_routes import OpenAIRoutes
from mlc_widget.api.serving.group_socket import GroupSocket, peer_user
from mlc_widget.api.serving.handler import ServedEngine
from mlc_widget.api.serving.listener import BoundedHTTPServer, Listener

_MAX_CONNECTIONS: Final = 320


class UserEngine(Protocol):
    """What is needed of a user's engine, which lives as long as somebody has it."""

    @property
    def link(self) -> EngineLink:
        """Its core."""


class GroupServer(NotCopyable, Closing):
    """Answers OpenAI's API on a group's socket.

    Each user has an engine with the same models. The engines share a worker, which divides its
    time among them. What a user can ask for is what `OpenAIRoutes` answers: nobody can have code
    run, a file read or written, or a model loaded.

    Args:
        socket: Where to listen; it is closed with the server.
        make_engine: Makes an engine without a model for a user; called on the home loop.
        models: What each engine loads.
    """

    _instead = "it is a socket of this process."

    def __init__(
        self, socket: GroupSocket, make_engine: Callable[[int], UserEngine], models: Sequence[str]
    ) -> None:
        self._home = HomeLoop.shared()
        self._socket = socket
        self._users = _Users(make_engine, models, self._home)

        async def listen() -> Listener:
            users = self._users
            return Listener([socket.listening], users.served_to, users.all_served, _UserHTTPServer)

        self._listener = self._home.wait_blocking(listen)

    def interrupt_generate(self) -> None:
        """End all running requests, with what there is."""
        self._home.wait_blocking(self._users.interrupt)

    def close(self) -> None:
        """Stop listening, and end all engines. Running requests have 5 s to end. Idempotent."""

        async def end() -> None:
            await self._listener.close()
            await self._users.end()

        self._home.wait_blocking(end)
        self._socket.close()


class _Member:
    """A user's engine."""

    def __init__(self, engine: UserEngine, models: Sequence[str], home: HomeLoop) -> None:
        self.engine = engine
        self._models = models
        self._loading: asyncio.Task[None] | None = None
        core = engine.link
        routes = OpenAIRoutes(core, home, keeps_sessions=False)
        self.served = ServedEngine(core, routes, None, self._ready)

    async def _ready(self) -> None:
        """Load the models, also after a load or a worker's restart that has failed."""
        link = self.engine.link
        done = self._loading
        if done is None or (done.done() and self._has_failed(done)):
            self._loading = asyncio.ensure_future(link.reload(self._models))
            self._loading.add_done_callback(lambda t: None if t.cancelled() else t.exception())
        assert self._loading is not None
        await asyncio.shield(self._loading)  # who asked first may leave, others wait for it, too

    def _has_failed(self, load: asyncio.Task[None]) -> bool:
        if load.cancelled() or load.exception() is not None:
            return True
        # A worker that died too often is not started again unless it is asked to load.
        return self.engine.link.snapshot.state == "dead" and len(self.served.answering) == 1


class _Users:
    """The engines by the ids of their users. On the home loop."""

    def __init__(
        self, make_engine: Callable[[int], UserEngine], models: Sequence[str], home: HomeLoop
    ) -> None:
        self._make_engine, self._models, self._home = make_engine, models, home
        self._members: dict[int, _Member] = {}

    def served_to(self, request: HTTPServerRequest) -> ServedEngine:
        """The engine of the user who sends a request."""
        stream = cast("HTTP1Connection", request.connection).stream
        user = cast("_UserStream", stream).user
        if user not in self._members:
            self._members[user] = _Member(self._make_engine(user), self._models, self._home)
        return self._members[user].served

    def all_served(self) -> list[ServedEngine]:
        """All engines that users have."""
        return [member.served for member in self._members.values()]

    async def interrupt(self) -> None:
        """End all running requests, with what there is."""
        for member in self._members.values():
            await member.engine.link.interrupt_generate()

    async def end(self) -> None:
        """Terminate all engines."""
        for member in self._members.values():
            await member.engine.link.terminate()


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
