"""An HTTP server on the home loop, which has an engine answer OpenAI's API."""

from __future__ import annotations

import contextlib
import socket
import weakref

from tornado.netutil import bind_sockets

from mlc_widget.api.closing import Closing
from mlc_widget.api.copies import NotCopyable
from mlc_widget.api.core import EngineCore
from mlc_widget.api.errors import BadRequestError, EngineForkedError
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.openai_routes import OpenAIRoutes
from mlc_widget.api.request_values import integer
from mlc_widget.api.serving.access import Access, check_host, check_token
from mlc_widget.api.serving.handler import ServedEngine
from mlc_widget.api.serving.listener import Listener


def _close(home: HomeLoop, listener: Listener) -> None:
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
        served = ServedEngine(core, OpenAIRoutes(core, home))

        async def listen() -> Listener:
            return Listener(sockets, lambda _: served, lambda: [served], access)

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


def check_port(host: str, port: int) -> None:
    """Refuse a port that cannot be listened on, for those who load a model before they listen.

    Raises:
        BadRequestError: It is no port, or the system refuses.
    """
    for bound in _bound(host, integer(0, 65535)("port", port)):
        bound.close()


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
