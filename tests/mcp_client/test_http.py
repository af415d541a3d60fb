"""Servers that are reached by streamable HTTP: calls, and the bounds on their answers."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mlc_widget import mcp
from mlc_widget.api.errors import MCPServerError
from mlc_widget.mcp_client import http

mcpserver = pytest.importorskip("mcp.server.mcpserver")
begun, gate = threading.Event(), threading.Event()


@contextmanager
def official(port: int = 0) -> Iterator[int]:
    """The official server, which adds numbers and tells a header; gives its port."""
    import uvicorn

    server = mcpserver.MCPServer("official", log_level="ERROR")

    @server.tool()
    def add(a: int, b: int) -> int:
        return a + b

    @server.tool()
    def wait() -> str:
        begun.set()
        return str(gate.wait(60))

    @server.tool()
    def token(context: mcpserver.Context) -> str:
        return str((context.headers or {}).get("authorization"))

    config = uvicorn.Config(server.streamable_http_app(), port=port, log_level="error")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        thread.join(0.01)
    try:
        yield running.servers[0].sockets[0].getsockname()[1]
    finally:
        running.should_exit = True
        running.force_exit = True
        thread.join(30)


async def test_tools_are_called_also_of_a_server_that_went_and_came_back() -> None:
    with official() as port:
        address = f"http://127.0.0.1:{port}/mcp"
        server = mcp(address, headers={"Authorization": "Bearer 1"}, timeout=30)
        assert [tool.name for tool in await server.tools()] == ["add", "wait", "token"]
        assert await server.call("add", {"a": 2, "b": 3}) == "5"
        assert await server.call("token", {}) == "Bearer 1"
        assert (await server.call("add", {"a": "x"})).startswith("Error: ")
    with pytest.raises(MCPServerError, match="127_0_0_1"):
        await server.call("add", {"a": 2, "b": 3})
    with official(port):
        assert await server.call("add", {"a": 2, "b": 3}) == "5"
    server.close()


async def test_a_failed_call_ends_no_other() -> None:
    """The connection is given up for later calls only."""
    with official() as port:
        server = mcp(f"http://127.0.0.1:{port}/mcp", timeout=60)
        begun.clear()
        gate.clear()
        waits = asyncio.create_task(server.call("wait", {}))
        await asyncio.to_thread(begun.wait, 60)
        connection = server._slot._connection
        assert connection is not None

        async def fail() -> None:
            server._slot.retire(connection)

        await server._home.wait(fail)
        assert not connection.alive
        later = asyncio.create_task(server.call("add", {"a": 2, "b": 3}))
        gate.set()
        assert await waits == "True"
        assert await later == "5"
        await server._home.wait(fail)  # an old failure does not give up the new connection
        assert server._slot._connection is not None
        server.close()


@contextmanager
def answering(body: bytes, **headers: str) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/mcp"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'{"jsonrpc": "2.0", "x": "' + b"x" * 200_000, {}),
        (gzip.compress(b"[" * 10_000_000), {"Content_Encoding": "gzip"}),
        (b"<html>not JSON</html>", {}),
        (b"[" * 100_000, {}),
    ],
    ids=["large", "compressed", "HTML", "nested"],
)
async def test_answers_that_are_none_are_refused(
    body: bytes, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_BODY", 100_000)
    with answering(body, **headers) as url, pytest.raises(MCPServerError, match="127_0_0_1"):
        await mcp(url, start_timeout=20).tools()
