"""A stream pushed to a client under credit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from mlc_widget.api.core import ChunkSource
from mlc_widget.api.errors import ProtocolError
from mlc_widget.api.requests import JSONDict
from mlc_widget.protocol.messages import chunks_message

MAX_CREDIT: Final = 2048
"""Chunks that one stream may have sent beyond what its client has read."""
PROBE_S: Final = 60.0
"""Seconds without credit after which a probe asks whether the client is still there."""
PROBES: Final = 10
"""Unanswered probes after which the client is taken to be gone."""


class StreamSender:
    """Sends a source's chunks as they come, never more than the client has given credit for.

    Without credit the source is not read, so a slow client delays its own stream and nothing else.
    ZMQ does not report a client that was killed, so the stream of one that answers no probe ends.

    Args:
        uuid: The init's uuid, under which chunks go.
        source: Batches of chunks.
        credit: How many chunks the client takes before it grants more; `MAX_CREDIT` at most.
        send: Sends one message down.
    """

    def __init__(
        self,
        uuid: str,
        source: ChunkSource,
        credit: int,
        send: Callable[[JSONDict], None],
    ) -> None:
        self._uuid = uuid
        self._source = source
        self._credit = min(credit, MAX_CREDIT)
        self._send = send
        self._granted = asyncio.Event()
        self._seq = 0
        self._task: asyncio.Task[None] | None = None

    def grant(self, credit: int) -> None:
        """Allow this many more chunks; 0 is the client's answer to a probe."""
        self._credit = min(self._credit + credit, MAX_CREDIT)
        self._granted.set()

    async def run(self) -> None:
        """Push until the source ends, or `close`; raises what the source raises."""
        self._task = asyncio.create_task(self._push())
        try:
            await self._task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise

    async def _push(self) -> None:
        async with contextlib.aclosing(self._source):
            async for batch in self._source:
                rest = batch
                while rest:
                    await self._wait_for_credit()
                    now, rest = rest[: self._credit], rest[self._credit :]
                    self._credit -= len(now)
                    self._send_chunks(now)

    def _send_chunks(self, chunks: Sequence[JSONDict]) -> None:
        self._seq += 1
        self._send(chunks_message(self._uuid, self._seq, chunks))

    async def _wait_for_credit(self) -> None:
        unanswered = 0
        while self._credit <= 0:
            self._granted.clear()
            try:
                async with asyncio.timeout(PROBE_S):
                    await self._granted.wait()
                unanswered = 0
            except TimeoutError:
                if unanswered == PROBES:
                    raise ProtocolError(
                        f"The client of this stream has not responded for {PROBES * PROBE_S:g} s.",
                        code="client_silent",
                    ) from None
                unanswered += 1
                self._send_chunks([])

    async def close(self) -> None:
        """Stop the source and the stream; wait until they have stopped."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._source.aclose()
