"""A worker in this process, on the home loop, and a wire to it that loses and swaps messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from mlc_widget.api.errors import MLCEngineError
from mlc_widget.engine.core import DirectCore
from mlc_widget.worker.handler import KernelMLCEngineHandler

SCRIPT = {"text": "one two three four five six seven", "repeat": 8}


class Session:
    """Packs messages as JSON, in place of Jupyter's."""

    auth = None
    unpack = staticmethod(json.loads)

    def msg(self, kind: str, content: Any) -> dict[str, Any]:
        return {"msg_type": kind, "content": content}

    def serialize(self, message: Any) -> list[bytes]:
        return [json.dumps(message).encode()]

    def feed_identities(self, frames: list[bytes]) -> tuple[None, list[bytes]]:
        return None, frames

    def send(self, socket: Shell, kind: str, content: Any) -> None:
        socket.send_multipart(self.serialize(self.msg(kind, content)))


class Socket:
    def setsockopt(self, *_: Any) -> None:
        pass

    def close(self, linger: int = 0) -> None:
        pass


class Shell(Socket):
    """Passes each message to the worker in a step of the loop, unless it is to go wrong."""

    def __init__(self, worker: LocalProcess) -> None:
        self._worker = worker
        self._behind: list[Any] = []

    def send_multipart(self, frames: list[bytes]) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        message = json.loads(frames[0])
        worker = self._worker
        if (
            message["msg_type"] == "comm_msg"
            and worker.lose > 0
            and "n" in message["content"]["data"]
        ):
            worker.lose -= 1
        elif message["msg_type"] == "comm_msg" and worker.swap > 0 and not self._behind:
            worker.swap -= 1
            self._behind.append(message)  # the next message overtakes it, if one comes soon
            loop.call_later(0.01, self._deliver_behind)
        else:
            loop.call_soon(worker.take, message)
            loop.call_soon(self._deliver_behind)
        sent: asyncio.Future[None] = loop.create_future()
        sent.set_result(None)
        return sent

    def _deliver_behind(self) -> None:
        while self._behind:
            self._worker.take(self._behind.pop())


class IOPub(Socket):
    """Gives what comes down."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self.broken = asyncio.Event()

    async def recv_multipart(self) -> list[bytes]:
        if self.broken.is_set():
            raise OSError("the wire was cut")
        return await self.queue.get()


class LocalProcess:
    """A worker's process, as the supervisor sees it.

    Attributes:
        alive: All that run.
        lose: How many of the next messages get lost on their way up.
        swap: How many of the next messages are overtaken by the one behind them.
    """

    alive: ClassVar[set[LocalProcess]] = set()
    pid: int | None = None
    sockets_folder = None
    when_silent = ""

    def __init__(self) -> None:
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.core = DirectCore(runtime="scripted", runtime_options=SCRIPT)
        self.lose = self.swap = 0
        self._iopub = IOPub()
        self._handler: KernelMLCEngineHandler | None = None

    async def start(self) -> None:
        LocalProcess.alive.add(self)

    def connect(self) -> tuple[Any, Any, Any]:
        return Shell(self), self._iopub, Session()

    def take(self, message: Mapping[str, Any]) -> None:
        """A message has arrived."""
        if self.exited.done():
            return
        if message["msg_type"] == "comm_open":
            handler = self._handler = KernelMLCEngineHandler(self.core, self._send)
            self.core.set_init_progress_callback(handler.report_progress)
        elif message["msg_type"] == "comm_msg" and self._handler is not None:
            self._handler.on_message(message["content"]["data"])

    def _send(self, data: Any) -> None:
        if not self.exited.done():
            parts: list[dict[str, Any]] = [{}, {"msg_type": "comm_msg"}, {}, {}, {"data": data}]
            self._iopub.queue.put_nowait([json.dumps(part).encode() for part in parts])

    async def die(self) -> None:
        """End, as by SIGKILL: nothing more is said."""
        if not self.exited.done():
            self.exited.set_result(None)
            LocalProcess.alive.discard(self)
            if self._handler is not None:
                await self._handler.close()
            await self.core.terminate()

    def cut(self) -> None:
        """Nothing comes down any more; the socket says so after the next message."""
        self._iopub.broken.set()

    @property
    def is_cut(self) -> bool:
        """Whether `cut` was called."""
        return self._iopub.broken.is_set()

    async def describe_death(self) -> str:
        return "was ended by the test."

    def output_tail(self) -> str:
        return ""

    async def stop(self, *, now: bool = False) -> None:
        await self.die()

    def kill(self) -> None:
        if not self.exited.done():
            self.exited.set_result(None)

    @property
    def greeting(self) -> dict[str, Any]:
        return {}

    def watch_link(self, *_: Any) -> None:
        """Nothing: it is in this process."""

    def was_ending(self, error: MLCEngineError) -> bool:
        return False

    async def replace(self) -> None:
        pass
