"""A server of OpenAI's API that misbehaves as a test says: raw bytes over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

CHAT = "/v1/chat/completions"
MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "x"}]}
WHOLE = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}
Send = Callable[[bytes], Awaitable[None]]
Handler = Callable[["Seen", Send], Awaitable[None]]


class Seen:
    """A request that came."""

    def __init__(self, head: bytes, body: bytes) -> None:
        line, *headers = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = line.split(" ", 2)
        self.headers = {
            name.lower(): value.strip()
            for name, _, value in (header.partition(":") for header in headers if header)
        }
        self.json = json.loads(body) if body else None


def answer(
    body: Any, status: int = 200, *, kind: str = "application/json", **headers: str
) -> bytes:
    """An HTTP answer that ends with its connection."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"HTTP/1.1 {status} X",
        f"Content-Type: {kind}",
        "Connection: close",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    if "Transfer_Encoding" not in headers and "Content_Length" not in headers:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode() + content


STREAM = b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def chunk(delta: Any, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, **more}
    return event({"id": "1", "object": "chat.completion.chunk", "choices": [choice]})


def event(data: Any) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


DONE = event(b"[DONE]")


def sends(*pieces: bytes) -> Handler:
    """Sends these bytes and closes the connection."""

    async def handle(seen: Seen, send: Send) -> None:
        for piece in pieces:
            await send(piece)

    return handle


class StandIn:
    """Answers each path by its handler; lists one model unless told otherwise."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {
            "/v1/models": sends(answer(MODELS)),
            CHAT: sends(answer(WHOLE)),
        }
        self.seen: list[Seen] = []
        self.left = asyncio.Event()
        """Set when a client has closed its connection before the answer's end."""
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[StandIn]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"(?i)content-length: *(\d+)", head)
            seen = Seen(head, await reader.readexactly(int(found[1]) if found else 0))
            self.seen.append(seen)

            async def send(piece: bytes) -> None:
                writer.write(piece)
                await writer.drain()

            handler = self.handlers.get(seen.path, sends(answer({"detail": "Not Found"}, 404)))
            handling = asyncio.ensure_future(handler(seen, send))
            leaving = asyncio.ensure_future(reader.read())
            await asyncio.wait({handling, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not handling.done():
                self.left.set()
            leaving.cancel()
            handling.cancel()
        writer.close()


async def hang(seen: Seen, send: Send) -> None:
    """Sends nothing, ever."""
    await asyncio.Event().wait()


def then_hang(*pieces: bytes) -> Handler:
    """Sends these bytes, and nothing more."""

    async def handle(seen: Seen, send: Send) -> None:
        for piece in pieces:
            await send(piece)
        await hang(seen, send)

    return handle
