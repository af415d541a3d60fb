"""The receiving end of a stream that the worker pushes under credit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from mlc_widget.api.errors import MLCEngineError, ProtocolError
from mlc_widget.api.requests import JSONDict
from mlc_widget.protocol.errors import decode_error
from mlc_widget.protocol.messages import STREAM_BYTES, STREAM_SHARE_BYTES

STREAM_CREDIT: Final = 2048
"""Chunks that the worker may send ahead; credit is granted again when half of it was read."""
_TOO_MANY_BYTES: Final = 2 * STREAM_BYTES
"""Bytes that wait for the consumer after which no more are taken. The worker sends no more than
`STREAM_BYTES` and a chunk; here, each message counts as a whole."""


class StreamReceiver:
    """A `ChunkSource`: the connection puts messages in, one consumer takes batches out.

    Args:
        grant: Allows the worker this many more chunks.
        leave: Called once at the end, with whether the worker is still working on the stream.
    """

    def __init__(self, grant: Callable[[int], object], leave: Callable[[bool], object]) -> None:
        self._grant = grant
        self._leave = leave
        self._accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._batches: deque[tuple[list[JSONDict], int]] = deque()  # with their bytes
        self._held = self._held_bytes = 0
        self._changed = asyncio.Event()
        self._ended = self._left = False
        self._error: MLCEngineError | None = None
        self._next_seq = 0
        self._owed = self._owed_bytes = 0
        self._taken = self._taken_bytes = 0
        self._served: Callable[[], object] | None = None

    def on_served(self, callback: Callable[[], object]) -> None:
        """Have a function called once all has come, or so much that the worker may have to wait.

        A worker that died before has not served it.
        """
        self._served = callback
        self._check_served()

    def _check_served(self) -> None:
        if self._served is not None and (
            self._taken >= STREAM_CREDIT
            or self._taken_bytes >= STREAM_SHARE_BYTES
            or (self._ended and self._error is None)
        ):
            self._served()
            self._served = None

    # The connection's side

    def take(self, message: Mapping[str, Any], nbytes: int = 0) -> None:
        """Take a message with the stream's uuid, and its size on the wire in bytes."""
        kind = message.get("kind")
        if kind == "return":
            self.end(None)
        elif kind == "throw":
            self.end(decode_error(str(message.get("content")), message.get("error")))
        elif kind == "chunks" and not self._ended:
            self._take_chunks(message, nbytes)

    def _take_chunks(self, message: Mapping[str, Any], nbytes: int) -> None:
        chunks = message["content"]
        if message.get("seq") != self._next_seq:
            self.end(
                ProtocolError(
                    f"A part of a stream was lost: message {message.get('seq')} of its chunks "
                    f"arrived when {self._next_seq} was expected. Send the request again."
                ),
                running=True,
            )
            return
        if self._held + len(chunks) > STREAM_CREDIT or self._held_bytes > _TOO_MANY_BYTES:
            self.end(
                ProtocolError(
                    f"The worker sent more of a stream than was read: {self._held} chunks "
                    f"({self._held_bytes} bytes) are already waiting. Send the request again.",
                    code="too_far_ahead",
                ),
                running=True,
            )
            return
        self._next_seq += 1
        if not self._accepted.done():
            self._accepted.set_result(None)
        if chunks:
            self._batches.append((chunks, nbytes))
            self._held += len(chunks)
            self._held_bytes += nbytes
            self._taken += len(chunks)
            self._taken_bytes += nbytes
            self._changed.set()
            self._check_served()
        elif message["seq"] > 0:  # a probe, for whoever reads slowly: we are here
            self._grant(0)

    def end(self, error: MLCEngineError | None, *, running: bool = False) -> None:
        """End the stream: the consumer gets the remaining chunks, then the error, if any."""
        if self._ended:
            return
        self._ended, self._error = True, error
        self._changed.set()
        if not self._accepted.done():
            if error is None:
                self._accepted.set_result(None)
            else:
                self._accepted.set_exception(error)
        self._go(running=running)
        self._check_served()

    def _go(self, *, running: bool) -> None:
        if not self._left:
            self._left = True
            self._leave(running)

    # The consumer's side

    async def accepted(self) -> None:
        """Wait until the worker has accepted the request.

        Raises:
            MLCEngineError: what is wrong with the request, or how the worker died.
        """
        try:
            await self._accepted
        except BaseException:
            await self.aclose()
            raise

    def __aiter__(self) -> StreamReceiver:
        return self

    async def __anext__(self) -> list[JSONDict]:
        due = self._owed >= STREAM_CREDIT // 2 or self._owed_bytes >= STREAM_SHARE_BYTES // 2
        if due and not self._ended:
            self._grant(self._owed)
            self._owed = self._owed_bytes = 0
        while not self._batches:
            if self._ended:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        batch, nbytes = self._batches.popleft()
        self._held -= len(batch)
        self._held_bytes -= nbytes
        self._owed += len(batch)
        self._owed_bytes += nbytes
        return batch

    async def aclose(self) -> None:
        """Stop the worker's work on the stream, if it has not ended. Idempotent."""
        running = not self._ended
        self._ended = True
        self._batches.clear()
        self._held = self._held_bytes = 0
        self._changed.set()
        self._go(running=running)
