"""Connections to servers by streamable HTTP, whose answers are bounded."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

MAX_BODY: Final = 32 * 1024 * 1024
"""The largest body of an answer, in bytes; a stream of events that is longer is begun again."""


@contextlib.asynccontextmanager
async def http_transport(url: str, headers: Mapping[str, str]) -> AsyncIterator[Any]:
    """The transport that a client of the package mcp needs."""
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    class Bounded(httpx2.AsyncByteStream):
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for data in self._stream:
                size += len(data)
                if size > MAX_BODY:
                    raise httpx2.ReadError(f"an answer of more than {MAX_BODY:,} bytes")
                yield data

        async def aclose(self) -> None:
            await self._stream.aclose()

    class BoundedTransport(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: Any) -> Any:
            request.headers["Accept-Encoding"] = "identity"
            response = await super().handle_async_request(request)
            if response.headers.get("Content-Encoding", "identity") != "identity":
                await response.aclose()
                raise httpx2.ReadError("a compressed answer, whose size would not be bounded")
            response.stream = Bounded(response.stream)
            return response

    async with (
        httpx2.AsyncClient(
            headers=dict(headers),
            timeout=httpx2.Timeout(30.0, read=300.0),
            transport=BoundedTransport(),
        ) as client,
        streamable_http_client(url, http_client=client) as streams,
    ):
        yield streams
