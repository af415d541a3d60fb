"""A comm to the worker: sends messages, and passes each answer to whoever waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import zmq

from mlc_widget._version import __version__
from mlc_widget.api.engine_log import EngineLog
from mlc_widget.api.errors import EngineDeadError, MLCEngineError, WorkerStartError
from mlc_widget.api.progress import InitProgressReport
from mlc_widget.api.requests import JSONDict
from mlc_widget.protocol.errors import decode_error
from mlc_widget.protocol.messages import (
    COMM_TARGET,
    PROTOCOL_VERSION,
    WorkerRequest,
    read_progress,
)
from mlc_widget.proxy.comm_reader import CommReader
from mlc_widget.proxy.outbox import Failed, Outbox
from mlc_widget.proxy.stream_receiver import STREAM_CREDIT, StreamReceiver

logger = logging.getLogger(__name__)

_HELLO_INTERVAL_S: Final = 0.1


class WorkerConnection:
    """One client's connection to a worker; used on the home loop only.

    Args:
        shell: Where messages go up.
        iopub: Where answers come down; this subscribes it to its own comm and nothing else, so
            that other clients' traffic never fills its queue.
        session: Signs and checks messages (HMAC).
        on_progress: Gets load reports.
        log: Gets what the worker logs.
    """

    def __init__(
        self,
        shell: Any,
        iopub: Any,
        session: Any,
        on_progress: Callable[[InitProgressReport], None],
        log: EngineLog | None = None,
    ) -> None:
        self._shell = shell
        self._iopub = iopub
        self._session = session
        self._incoming = CommReader(session)
        self._on_progress = on_progress
        self._log = log
        self._comm_id = uuid.uuid4().hex
        self._pending: dict[str, asyncio.Future[Any]] = {}
        self._streams: dict[str, StreamReceiver] = {}
        self._dead: MLCEngineError | None = None
        self.broken: asyncio.Future[EngineDeadError] = asyncio.get_running_loop().create_future()
        """Done once nothing more gets through to the worker, or from it, though it may live."""
        self.replaced = False
        """Whether a new worker will replace this one."""
        self.asked = asyncio.Event()
        """Set when a message is sent that will be answered; cleared by the `HangWatch`."""
        self.heard = 0
        """The number of messages received so far."""
        self.bytes_sent = self.bytes_received = 0
        """Bytes of all messages, with their headers and signatures."""
        self._greeted = False  # the worker has said hello
        self._outbox = Outbox(self._pack, self._send_frames)
        iopub.setsockopt(zmq.SUBSCRIBE, f"comm-{self._comm_id}".encode())
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(self._reader_ended)

    async def open(self, timeout: float, greeting: Mapping[str, Any] | None = None) -> JSONDict:
        """Open the comm and say hello; returns the worker's description of itself.

        Args:
            timeout: Seconds to wait for an answer.
            greeting: What else the first messages say.

        Raises:
            WorkerStartError: no answer within `timeout` seconds.
            ProtocolError: the worker speaks another version.
        """
        self._session.send(
            self._shell,
            "comm_open",
            {"comm_id": self._comm_id, "target_name": COMM_TARGET, "data": dict(greeting or {})},
        )
        content = {"protocol": PROTOCOL_VERSION, "version": __version__, **(greeting or {})}
        deadline = asyncio.get_running_loop().time() + timeout
        answers: set[asyncio.Future[Any]] = set()
        try:
            while asyncio.get_running_loop().time() < deadline:
                # Again until it is answered: our subscription may come after the first answer.
                answers.add(self.send("hello", content))
                done, _ = await asyncio.wait(
                    answers, timeout=_HELLO_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED
                )
                for answer in done:
                    hello: JSONDict = answer.result()
                    self._greeted = True
                    return hello
        finally:
            for answer in answers:
                answer.cancel()
        raise WorkerStartError(f"The worker did not answer within {timeout:g} s.")

    @property
    def busy(self) -> bool:
        """Whether anything waits for the worker."""
        return bool(self._pending or self._streams)

    def send(self, kind: str, content: Any = None) -> asyncio.Future[Any]:
        """Send a message; the future gets its answer, or the error with which it ended."""
        request_uuid = uuid.uuid4().hex
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[request_uuid] = answer
        self.asked.set()
        answer.add_done_callback(lambda _: self._pending.pop(request_uuid, None))

        failed = partial(self._tell, request_uuid)
        self._post(WorkerRequest(kind, request_uuid, content), request_uuid, failed)
        return answer

    def _post(
        self, request: WorkerRequest, waiter: str, failed: Failed, *, resend: bool = False
    ) -> None:
        if self._dead is not None:
            failed(_copy(self._dead))
        elif not self.broken.done():  # else it fails in a moment, with all that waits
            self._outbox.post(request, waiter, failed, resend=resend)

    def _pack(self, data: Mapping[str, Any]) -> list[bytes]:
        content = {"comm_id": self._comm_id, "data": data}
        frames: list[bytes] = self._session.serialize(self._session.msg("comm_msg", content))
        return frames

    def _send_frames(self, frames: list[bytes]) -> None:
        self.bytes_sent += sum(map(len, frames))
        sent: asyncio.Future[Any] = self._shell.send_multipart(frames)
        if sent.done():
            self._sent(sent)
        else:
            sent.add_done_callback(self._sent)

    def _sent(self, sent: asyncio.Future[Any]) -> None:
        error = None if sent.cancelled() else sent.exception()
        if error is not None:
            self.lose(EngineDeadError(f"The connection to the worker broke: {error}"))

    def lose(self, error: EngineDeadError) -> None:
        """Have the worker replaced: it can no longer be reached."""
        if not self._greeted:
            self.fail(error)
        elif not self.broken.done():
            self.broken.set_result(error)

    async def call(self, kind: str, content: Any = None) -> Any:
        """Send a message and wait for its answer.

        Raises:
            MLCEngineError: the worker's error, or how the worker died.
        """
        return await self.send(kind, content)

    def post(self, kind: str, content: Any = None, waiter: str = "") -> None:
        """Send a message whose answer nobody waits for, again if it is lost; never raises.

        Args:
            kind: The message's kind.
            content: The message's content.
            waiter: The uuid of the stream that gets the error if it is lost; it is not sent again.
        """
        request = WorkerRequest(kind, uuid.uuid4().hex, content)
        self._post(request, waiter, partial(self._tell, waiter), resend=not waiter)

    def _tell(self, waiter: str, error: MLCEngineError) -> None:
        """Pass the error of a message that cannot reach the worker to whoever waits for it."""
        if waiter in self._streams:
            self._streams[waiter].end(error, running=True)
        elif waiter in self._pending and not self._pending[waiter].done():
            self._pending[waiter].set_exception(error)

    async def open_stream(self, kind: str, content: Mapping[str, Any]) -> StreamReceiver:
        """Begin a pushed stream; returns once the worker has accepted the request.

        Raises:
            MLCEngineError: what is wrong with the request, or how the worker died.
        """
        init_uuid = uuid.uuid4().hex

        def grant(credit: int) -> None:
            content = {"streamId": init_uuid, "credit": credit}
            self.post("streamCredit", content, init_uuid)

        def leave(running: bool) -> None:
            self._streams.pop(init_uuid, None)
            if running:
                self.post("completionStreamReturn", {"streamId": init_uuid})

        stream = self._streams[init_uuid] = StreamReceiver(grant, leave)
        self.asked.set()
        content = {**content, "streamId": init_uuid, "credit": STREAM_CREDIT}
        self._post(WorkerRequest(kind, init_uuid, content), init_uuid, stream.end)
        await stream.accepted()
        return stream

    # What comes down

    async def _read(self) -> None:
        while True:
            frames = await self._iopub.recv_multipart()
            self.heard += 1
            nbytes = sum(map(len, frames))
            self.bytes_received += nbytes
            try:
                kind, content = self._incoming.read(frames)
                if kind == "comm_msg":
                    self._on_message(content["data"], nbytes)
                elif kind == "comm_close":
                    self.lose(self._closed_by_worker())
            except Exception:  # one bad message must not stop the reader
                logger.exception("a message from the worker could not be read")

    def _closed_by_worker(self) -> EngineDeadError:
        if self._greeted:
            return EngineDeadError("The worker closed the connection.")
        return WorkerStartError("The kernel is not an mlc_widget worker.")

    def _reader_ended(self, reader: asyncio.Task[None]) -> None:
        # A socket that is closed cancels what waits for it.
        why = "its socket was closed" if reader.cancelled() else reader.exception()
        if self._dead is None:
            self.lose(EngineDeadError(f"The connection to the worker broke: {why}"))

    def _on_message(self, data: Mapping[str, Any], nbytes: int) -> None:
        kind, message_uuid = data.get("kind"), str(data.get("uuid"))
        if kind == "initProgressCallback":
            self._on_progress(read_progress(data["content"]))
            self.post("progressTaken")
        elif kind == "log":
            if self._log is not None:
                self._log.take_all(data.get("content"))
            self.post("logTaken")
        elif kind == "lost":
            first, last = int(data["content"]["first"]), int(data["content"]["last"])
            for waiter, error in self._outbox.lost(first, last):
                self._tell(waiter, error)
        elif message_uuid in self._streams:
            self._streams[message_uuid].take(data, nbytes)
        elif message_uuid in self._pending:
            answer = self._pending[message_uuid]
            if answer.done():
                return
            if kind == "return":
                answer.set_result(data.get("content"))
            elif kind == "throw":
                answer.set_exception(decode_error(str(data.get("content")), data.get("error")))
        # Otherwise it is a late answer to something that nobody waits for any more.

    def fail(self, error: MLCEngineError, *, replaced: bool = False) -> None:
        """End everything that waits for the worker with `error`: the worker is gone.

        Args:
            error: What to raise.
            replaced: Whether a new worker will take over, so that requests can be resumed.
        """
        if self._dead is None:
            self._dead, self.replaced = error, replaced
        for answer in list(self._pending.values()):
            if not answer.done():
                answer.set_exception(_copy(error))
        for stream in list(self._streams.values()):
            stream.end(_copy(error))

    async def close(self) -> None:
        """Close the comm and the sockets; everything that still waits fails."""
        if not self.broken.done():  # a shared worker goes on without this client
            with contextlib.suppress(zmq.ZMQError):
                self._session.send(
                    self._shell, "comm_close", {"comm_id": self._comm_id, "data": {}}
                )
        self.fail(EngineDeadError("The connection to the worker was closed."))
        self._reader.cancel()
        await asyncio.wait({self._reader})
        self._shell.close(linger=200)
        self._iopub.close(linger=0)


def _copy(error: MLCEngineError) -> MLCEngineError:
    """A copy of the error for another waiter: raising one object twice mixes its tracebacks."""
    return type(error)(
        error.message, code=error.code, param=error.param, request_id=error.request_id
    )
