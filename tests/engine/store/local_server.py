"""An HTTP server on this machine that can hold an answer until a test goes on."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class LocalServer:
    """Answers requests on threads of its own, until `close`.

    Args:
        handler: Answers one connection's requests.
    """

    def __init__(self, handler: type[Handler]) -> None:
        self.release = threading.Event()
        """Lets the answers go on that are held."""
        self.closed = threading.Event()
        """Set when a client that was held has closed its connection."""
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Bound", (handler,), {"local": self})
        )
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


class Handler(BaseHTTPRequestHandler, ABC):
    """Answers requests without a word in the log."""

    local: LocalServer

    @abstractmethod
    def answer(self) -> None:
        """Answer a GET or HEAD request."""

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def log_message(self, *args: Any) -> None:
        """Log nothing."""

    def hold(self) -> None:
        """Wait until the test releases it, or the client goes away."""
        self.connection.settimeout(0.02)
        for _ in range(3000):
            if self.local.release.is_set():
                break
            try:
                if not self.connection.recv(1):
                    raise ConnectionResetError
            except TimeoutError:
                continue
            except OSError:
                self.local.closed.set()
                break
        self.connection.settimeout(None)
