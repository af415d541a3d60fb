"""A stream pushed to a client under credit."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from mlc_widget.api.core import ChunkSource
from mlc_widget.api.errors import ProtocolError
from mlc_widget.api.requests import JSONDict
from mlc_widget.protocol.messages import chunks_message
from mlc_widget.worker.unread_bytes import ClientBytes

MAX_CREDIT: Final = 2048
"""Chunks that one stream may have sent beyond what its client has read."""
PROBE_S: Final = 60.0
"""Seconds of waiting for the client after which a probe asks whether it is still there."""
PROBES: Final = 10
"""Unanswered probes after which the client is taken to be gone."""


class StreamSender:
    """Sends a source's chunks as they come, while the client reads them.

    What was sent and not read is bounded in chunks, by the client's credit, and in bytes. At either
    bound the source is not read, so a slow client delays its own stream and nothing else. A stream
    ends only when little of it is unread, so that those that ended are bounded, too.
    ZMQ does not report a client that was killed, so the stream of one that answers no probe ends.

    Args:
        uuid: The init's uuid, under which chunks go.
        source: Batches of chunks.
        credit: How many chunks the client takes before it grants more; `MAX_CREDIT` at most.
        send: Sends one message down.
        unread: Counts what the client has not read.
    """

    def __init__(
        self,
        uuid: str,
        source: ChunkSource,
        credit: int,
        send: Callable[[JSONDict], None],
        unread: ClientBytes,
    ) -> None:
        self._uuid = uuid
        self._source = source
        self._credit = min(credit, MAX_CREDIT)
        self._send = send
        self._changed = asyncio.Event()
        self._unread = unread.stream(self._changed)
        self._seq = 0
        self._task: asyncio.Task[None] | None = None

    def grant(self, credit: int) -> None:
        """The client has read this many chunks; 0 is its answer to a probe."""
        self._credit = min(self._credit + credit, MAX_CREDIT)
        self._unread.read(credit)
        self._changed.set()

    async def run(self) -> None:
        """Push until the source ends, or `close`; raises what the source raises."""
        self._task = asyncio.create_task(self._push())
        try:
            await self._task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
        finally:
            self._unread.close()

    async def _push(self) -> None:
        failure: Exception | None = None
        async with contextlib.aclosing(self._source):
            while True:
                try:
                    rest = deque(await anext(self._source))
                except StopAsyncIteration:
                    break
                except Exception as error:
                    failure = error
                    break
                while rest:
                    await self._wait_until(self._may_send)
                    self._send_chunks(self._next_of(rest))
        await self._wait_until(lambda: self._unread.within_share)
        if failure is not None:
            raise failure

    def _may_send(self) -> bool:
        return self._credit > 0 and self._unread.may_grow

    def _next_of(self, rest: deque[JSONDict]) -> list[JSONDict]:
        """Take as many chunks as may be sent now."""
        taken = []
        while rest and self._may_send():
            chunk = rest.popleft()
            self._credit -= 1
            self._unread.add(chunk)
            taken.append(chunk)
        return taken

    def _send_chunks(self, chunks: Sequence[JSONDict]) -> None:
        self._seq += 1
        self._send(chunks_message(self._uuid, self._seq, chunks))

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for the client to read; ask it now and then whether it is there."""
        unanswered = 0
        while not condition():
            self._changed.clear()
            try:
                async with asyncio.timeout(PROBE_S):
                    await self._changed.wait()
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
