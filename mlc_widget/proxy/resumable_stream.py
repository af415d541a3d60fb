"""A stream that continues in a new worker when its own dies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mlc_widget.api.core import RequestKind
from mlc_widget.api.errors import (
    BadRequestError,
    EngineDeadError,
    MLCEngineError,
    ModelNotLoadedError,
)
from mlc_widget.api.requests import JSONDict
from mlc_widget.protocol.messages import STREAM_INITS
from mlc_widget.proxy.in_flight import InFlightRequest, InFlightRequests
from mlc_widget.proxy.journal import Journal
from mlc_widget.proxy.stream_receiver import StreamReceiver


class ResumableStream:
    """A `ChunkSource`; use `open`.

    A new worker is asked only when the consumer has read everything that the dead one had sent and
    wants more, so nothing is resumed for a consumer that has left.
    """

    def __init__(
        self,
        kind: RequestKind,
        in_flight: InFlightRequest,
        in_flight_requests: InFlightRequests,
        resume: JSONDict | None,
    ) -> None:
        self._init: Final = STREAM_INITS[kind]
        self._in_flight = in_flight
        self._in_flight_requests = in_flight_requests
        self._journal = Journal(in_flight.request, resume)
        self._journals = in_flight.resumable or resume is not None
        self._stream: StreamReceiver | None = None
        self._closed = False

    @classmethod
    async def open(
        cls,
        kind: RequestKind,
        request: Mapping[str, Any],
        in_flight_requests: InFlightRequests,
        resume: JSONDict | None = None,
    ) -> ResumableStream:
        """Begin; returns once a worker has accepted the request.

        Args:
            kind: The kind of request.
            request: The request in OpenAI's shape.
            in_flight_requests: The engine's.
            resume: What the consumer has already, as in a stream's init.

        Raises:
            BadRequestError: the request is wrong.
            MLCEngineError: any other reason why it cannot be answered.
        """
        if kind not in STREAM_INITS:
            raise BadRequestError("stream = True: embeddings do not stream.", param="stream")
        in_flight = in_flight_requests.begin(kind, request, streamed=True)
        stream = cls(kind, in_flight, in_flight_requests, resume)
        await stream._send()
        return stream

    async def _send(self) -> StreamReceiver:
        """Start or continue the stream in a worker that is up."""
        in_flight = self._in_flight
        try:
            while True:
                connection, content = await in_flight.address()
                if self._journals:
                    content |= {"journal": True, "resume": self._journal.content()}
                try:
                    stream = await connection.open_stream(self._init, content)
                    stream.on_served(in_flight.served)
                except EngineDeadError as error:
                    in_flight.outlive(error)
                    continue
                except ModelNotLoadedError as error:
                    in_flight.readdress(error)
                    continue
                in_flight.sent()
                self._stream = stream
                if self._closed:
                    await stream.aclose()
                return stream
        except MLCEngineError as error:
            self._end()
            raise in_flight.failed(error) from error.__cause__
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        self._in_flight_requests.end(self._in_flight)

    def __aiter__(self) -> ResumableStream:
        return self

    async def __anext__(self) -> list[JSONDict]:
        stream = self._stream
        assert stream is not None
        try:
            while not self._closed:
                try:
                    batch = await anext(stream)
                except StopAsyncIteration:
                    break
                except EngineDeadError as error:
                    if self._journal.complete:  # only its end was lost
                        break
                    self._in_flight.aborted = self._in_flight.aborted or self._journal.aborted
                    self._in_flight.outlive(error)
                    stream = await self._send()
                    continue
                for chunk in batch:
                    self._journal.take(chunk)
                return batch
            if not self._closed:
                self._in_flight.answered()
            raise StopAsyncIteration
        except MLCEngineError as error:
            self._end()
            raise self._in_flight.failed(error) from error.__cause__
        except Exception:
            self._end()
            raise

    async def aclose(self) -> None:
        """Stop the worker's work on it, if any. Idempotent."""
        self._closed = True
        self._end()
        if self._stream is not None:
            await self._stream.aclose()
