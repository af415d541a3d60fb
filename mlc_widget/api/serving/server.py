"""An HTTP server on the home loop, which has an engine answer OpenAI's API."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import weakref
from typing import Final

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from mlc_widget.api.closing import Closing
from mlc_widget.api.copies import NotCopyable
from mlc_widget.api.core import EngineCore
from mlc_widget.api.errors import BadRequestError, EngineForkedError
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.openai_routes import OpenAIRoutes
from mlc_widget.api.request_values import integer
from mlc_widget.api.serving.access import Access, check_host, check_token
from mlc_widget.api.serving.handler import EngineRequestHandler, ServedEngine

_MAX_HEADER_BYTES: Final = 64 * 1024
_IDLE_S: Final = 60.0
_BODY_S: Final = 120.0
_CLOSE_S: Final = 5.0


class _Listener:
    """The home loop's half of a server: the port and what is answered there."""

    def __init__(self, sockets: list[socket.socket], served: ServedEngine) -> None:
        self._served = served
        application = Application(
            [(r".*", EngineRequestHandler, {"served": served})], log_function=lambda _: None
        )
        self._http: HTTPServer | None = HTTPServer(
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
        if running := set(self._served.answering):
            _, late = await asyncio.wait(running, timeout=_CLOSE_S)
            for task in late:
                task.cancel()
        await http.close_all_connections()


def _close(home: HomeLoop, listener: _Listener) -> None:
    """Close the port of a server that nothing refers to any more."""
    with contextlib.suppress(EngineForkedError):
        home.submit(listener.close())


class EngineServer(NotCopyable, Closing):
    """An engine that answers OpenAI's API over HTTP; `engine.serve()` makes one.

    It ends with `close`, with the engine's `terminate`, with the engine, or with this process. It
    does not keep the engine alive.
    """

    _instead = "it is a port of this process. Pass its `url` and its `token`."

    def __init__(
        self,
        core: EngineCore,
        home: HomeLoop,
        *,
        host: str,
        port: int,
        token: str | None,
        allow_remote: bool,
    ) -> None:
        self._home = home
        port = integer(0, 65535)("port", port)
        self._token = check_token(token)
        access = Access(self._token, loopback=check_host(host, allow_remote))
        sockets = _bound(host, port)
        served = ServedEngine(core, OpenAIRoutes(core, home), access)

        async def listen() -> _Listener:
            return _Listener(sockets, served)

        self._listener = home.wait_blocking(listen)
        shown = f"[{host}]" if ":" in host else host
        self._url = f"http://{shown}:{sockets[0].getsockname()[1]}/v1"
        self._finalizer = weakref.finalize(self, _close, home, self._listener)
        self._finalizer.atexit = False

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} at {self._url}{'' if self._finalizer.alive else ': closed'}>"
        )

    @property
    def url(self) -> str:
        """What clients take as base URL, such as ``http://127.0.0.1:8000/v1``."""
        return self._url

    @property
    def token(self) -> str:
        """What clients take as API key. Whoever has it can use the engine."""
        return self._token

    def close(self) -> None:
        """Close the port. Requests that are being answered have 5 s to end. Idempotent."""
        if not self._home.is_forked:
            self._home.wait_blocking(self._closed)

    async def _closed(self) -> None:
        """As `close`, on the home loop."""
        self._finalizer.detach()
        await self._listener.close()


def _bound(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen there.

    Raises:
        BadRequestError: The system refuses; the message has its reason.
    """
    try:
        return bind_sockets(port, address=host.strip("[]"))
    except (OSError, UnicodeError) as error:
        raise BadRequestError(
            f"cannot listen on {host}, port {port}: {getattr(error, 'strerror', None) or error}. "
            "Choose another port, or 0 for any free one.",
            param="port",
        ) from None
