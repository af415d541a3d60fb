"""A worker that is up: its process, the connection to it, and what is loaded in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from mlc_widget.api.engine_log import EngineLog
from mlc_widget.api.errors import EngineDeadError, MLCEngineError, WorkerStartError
from mlc_widget.api.progress import InitProgressReport
from mlc_widget.api.requests import JSONDict
from mlc_widget.api.snapshot_publisher import SnapshotPublisher
from mlc_widget.proxy.connection import WorkerConnection
from mlc_widget.proxy.hangs import HangWatch
from mlc_widget.proxy.link_watch import LinkWatch
from mlc_widget.proxy.process import WorkerProcess
from mlc_widget.proxy.shared_process import SharedWorkerProcess

AnyProcess: TypeAlias = WorkerProcess | SharedWorkerProcess
_FOLDER_POLL_S: Final = 0.5
_LAST_ANSWER_S: Final = 5.0
_UNHURRIED: Final = frozenset({"unload", "cancelLoad"})
"""Calls that wait for the end of a step, or until memory is freed: as long as the worker speaks."""


class Worker:
    """Use `start`; on the home loop only.

    Attributes:
        process: The worker's process.
        connection: The connection to it.
        hello: Its answer to ``hello``.
        hangs: Watches it for hangs.
        loaded: Whether the models that the engine expects are loaded in it.
        needs_fresh_process: Whether its process can load nothing more, as with some runtimes.
    """

    def __init__(
        self,
        process: AnyProcess,
        connection: WorkerConnection,
        hello: JSONDict,
        hangs: HangWatch,
        link: LinkWatch | None = None,
    ) -> None:
        self.process = process
        self.connection = connection
        self.hello = hello
        self.hangs = hangs
        self._link = link
        self.loaded = self.needs_fresh_process = False

    @classmethod
    async def start(
        cls,
        process: AnyProcess,
        timeout: float,
        on_progress: Callable[[InitProgressReport], None],
        publisher: SnapshotPublisher,
        hang_timeout: float,
        log: EngineLog | None = None,
    ) -> Worker:
        """Start the process, connect, and say hello. Cleans up if it fails or is cancelled.

        Raises:
            WorkerStartError: the process died, did not answer within `timeout` seconds, or cannot
                be reached, as its sockets were removed; the message ends with its last output.
            ProtocolError: it speaks another version.
        """
        connection: WorkerConnection | None = None
        try:
            await process.start()
            shell, iopub, session = process.connect()
            connection = WorkerConnection(shell, iopub, session, on_progress, log)
            hello = await _hello(process, connection, timeout)
            link = process.watch_link(connection, iopub)
        except BaseException:
            if connection is not None:
                await connection.close()
            await process.stop()
            raise
        hangs = HangWatch(connection, publisher, hang_timeout)
        return cls(process, connection, hello, hangs, link)

    @property
    def shared(self) -> bool:
        """Whether other processes use it, too."""
        return isinstance(self.process, SharedWorkerProcess)

    async def died(self) -> EngineDeadError:
        """Wait until the process ends, or can no longer be reached; fail all that waits for it.

        Returns:
            How it died.
        """
        exited, broken = self.process.exited, self.connection.broken
        ends: set[asyncio.Future[Any]] = {exited, broken}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        self._close_watches()
        if exited.done():
            how = f"The worker {await self.process.describe_death()}"
        else:
            how = broken.result().message
        error = EngineDeadError(
            f"{how}\nThe notebook is not affected; the next request starts a new worker."
        )
        self.connection.fail(error, replaced=True)
        return error

    async def call(self, kind: str, content: Any = None) -> Any:
        """Send a message that a responsive worker answers soon, and wait for the answer.

        Raises:
            EngineDeadError: it died, or (code ``worker_silent``) does not answer this, or anything,
                within a bound; see `HangWatch.answer_s`.
            MLCEngineError: its error.
        """
        answer = self.connection.send(kind, content)
        silent = asyncio.create_task(self.hangs.silent.wait())
        patience = None if kind in _UNHURRIED else self.hangs.answer_s
        try:
            await asyncio.wait(
                {answer, silent}, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            if answer.done():
                return answer.result()
        finally:
            answer.cancel()
            silent.cancel()
        raise not_answered(kind)

    async def responds(self) -> bool:
        """Wait until it answers; return whether it does."""
        try:
            await self.call("health")
        except EngineDeadError:
            return False
        except MLCEngineError:  # it says that it cannot tell
            return True
        return True

    async def stop(self, *, restart: bool = False) -> None:
        """End it and free everything, at once if it hangs; a shared one is only left. Idempotent.

        Args:
            restart: Whether a shared one that hangs is to be replaced, for all its clients.
        """
        self._close_watches()
        if restart and self.hangs.hang is not None:
            await self.process.replace()
        await self.connection.close()
        lost = self.hangs.hang is not None or self.connection.broken.done()
        await self.process.stop(now=lost)

    def _close_watches(self) -> None:
        self.hangs.close()
        if self._link is not None:
            self._link.close()


def not_answered(kind: str) -> EngineDeadError:
    """The error of a call that a worker has not answered although any would at once."""
    return EngineDeadError(
        f"The worker does not answer ({kind}). A restart (`%mlc restart`, or the button in a "
        "chat) or reload() replaces it.",
        code="worker_silent",
    )


async def _hello(process: AnyProcess, connection: WorkerConnection, timeout: float) -> JSONDict:
    hello = asyncio.ensure_future(connection.open(timeout, process.greeting))
    lost = asyncio.create_task(_lost_sockets(process))
    either: set[asyncio.Future[Any]] = {hello, process.exited, lost}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if lost.done() and not hello.done() and not process.exited.done():
            raise WorkerStartError(lost.result())
        if not hello.done():
            raise WorkerStartError(f"The worker {await process.describe_death()}")
        return hello.result()
    except WorkerStartError as error:
        if "\n" in error.message:
            raise
        why = process.when_silent if hello.done() else ""
        raise WorkerStartError(error.message + why + process.output_tail()) from None
    finally:
        hello.cancel()
        lost.cancel()


async def _lost_sockets(process: AnyProcess) -> str:
    """Wait until nobody can reach the worker any more, as its sockets' folder is gone; say so."""
    while True:
        folder = process.sockets_folder
        if folder is not None and not folder.exists():
            await asyncio.sleep(_LAST_ANSWER_S)  # whoever was connected before still is
            return (
                f"The worker cannot be reached, because the folder of its sockets, {folder}, "
                f"was removed.{process.when_lost}"
            )
        await asyncio.sleep(_FOLDER_POLL_S)
