"""The streams of one client: pulled chunk by chunk, or pushed under credit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from mlc_widget.api.core import ChunkSource
from mlc_widget.api.errors import ProtocolError
from mlc_widget.api.requests import JSONDict
from mlc_widget.protocol.messages import chunks_message
from mlc_widget.worker.stream_sender import StreamSender
from mlc_widget.worker.unread_bytes import ClientBytes

MAX_STREAMS: Final = 256


class _PulledStream:
    """A stream whose client asks for each chunk, as WebLLM's does."""

    def __init__(self, source: ChunkSource) -> None:
        self.source = source
        self._ready: list[JSONDict] = []

    async def next(self) -> JSONDict | None:
        """The next chunk; None after the last."""
        if not self._ready:
            try:
                self._ready = list(await anext(self.source))[::-1]
            except StopAsyncIteration:
                return None
        return self._ready.pop()


class ClientStreams:
    """All streams of one client, by stream id.

    Args:
        send: Sends one message down.
    """

    def __init__(self, send: Callable[[JSONDict], None]) -> None:
        self._send = send
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._pulled: dict[str, _PulledStream] = {}
        self._pushed: dict[str, StreamSender] = {}
        self._unread = ClientBytes()

    async def open(
        self,
        stream_id: str,
        uuid: str,
        opening: Callable[[], Awaitable[ChunkSource]],
        credit: int | None,
    ) -> None:
        """Open a stream. With credit it is pushed until it ends; without, it waits to be pulled.

        Raises:
            ProtocolError: the id is taken, or there are too many.
            MLCEngineError: what is wrong with the request or, when pushed, what ends it.
        """
        taken = {*self._opening, *self._pulled, *self._pushed}
        if stream_id in taken or len(taken) >= MAX_STREAMS:
            raise ProtocolError(
                f"stream {stream_id!r} exists already."
                if stream_id in taken
                else f"at most {MAX_STREAMS} streams at once are allowed: end some first."
            )
        current = asyncio.current_task()
        assert current is not None
        self._opening[stream_id] = current
        try:
            source = await opening()
        finally:
            del self._opening[stream_id]
        if credit is None:
            self._pulled[stream_id] = _PulledStream(source)
            return
        self._send(chunks_message(uuid, 0, []))
        pushed = self._pushed[stream_id] = StreamSender(
            uuid, source, credit, self._send, self._unread
        )
        try:
            await pushed.run()
        finally:
            del self._pushed[stream_id]

    async def next_chunk(self, stream_id: str) -> JSONDict | None:
        """The next chunk of a pulled stream; None at its end, after which the id is unknown.

        Raises:
            ProtocolError: there is no such stream.
            MLCEngineError: what ended it.
        """
        pulled = self._pulled.get(stream_id)
        if pulled is None:
            raise ProtocolError(f"no stream {stream_id!r}: it was never opened, or has ended.")
        chunk = None
        try:
            chunk = await pulled.next()
        finally:
            if chunk is None:
                self._pulled.pop(stream_id, None)
                await pulled.source.aclose()
        return chunk

    def grant(self, stream_id: str, credit: int) -> None:
        """More credit for a pushed stream; one that has just ended needs none."""
        pushed = self._pushed.get(stream_id)
        if pushed is not None:
            pushed.grant(credit)

    async def end(self, stream_id: str) -> None:
        """The client has left a stream, which may be still opening; an unknown id is ignored."""
        opening = self._opening.get(stream_id)
        if opening is not None:
            opening.cancel()
        pulled = self._pulled.pop(stream_id, None)
        if pulled is not None:
            await pulled.source.aclose()
        pushed = self._pushed.get(stream_id)
        if pushed is not None:
            await pushed.close()

    async def close(self) -> None:
        """End all streams: the client is gone."""
        for stream_id in [*self._opening, *self._pulled, *self._pushed]:
            with contextlib.suppress(Exception):
                await self.end(stream_id)
