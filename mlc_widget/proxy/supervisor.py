"""Starts the worker when it is needed, watches it, restarts it and ends it."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final

from mlc_widget.api.engine_log import EngineLog
from mlc_widget.api.errors import EngineDeadError, EngineTerminatedError, MLCEngineError
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.progress import InitProgressReport
from mlc_widget.api.snapshot_publisher import SnapshotPublisher
from mlc_widget.proxy.connection import WorkerConnection
from mlc_widget.proxy.worker import AnyProcess, Worker

_MAX_DEATHS: Final = 3
"""Deaths in quick succession after which no worker is started until the next `reload`."""
_EXIT_S: Final = 3.0
"""How long the interpreter's exit may wait for the thread that owns the workers."""
_TOLD_S: Final = 2.5
"""How much of it is for workers on other machines, all of which are told to end."""
_STABLE_S: Final = 60.0
"""After this many seconds, a death is not blamed on the worker's start or model."""


class WorkerSupervisor:
    """Owns the worker, on the home loop: at most one is up at any time.

    Args:
        make_process: Makes a worker's process, not yet started.
        publisher: Gets the engine's state.
        start_timeout: Seconds within which a new worker must answer.
        hang_timeout: Seconds without a response after which a hang is reported; see `HangWatch`.
        on_start: Called with each worker once it is up.
        on_progress: Gets the workers' load reports.
        on_death: Called with how a worker died, after everything that waited for it has failed.
        log: Gets the workers' starts and ends, and what they log.
    """

    def __init__(
        self,
        make_process: Callable[[], AnyProcess],
        publisher: SnapshotPublisher,
        start_timeout: float,
        hang_timeout: float,
        *,
        on_start: Callable[[Worker], None],
        on_progress: Callable[[InitProgressReport], None],
        on_death: Callable[[EngineDeadError], None],
        log: EngineLog,
    ) -> None:
        self._make_process = make_process
        self._publisher = publisher
        self._start_timeout = start_timeout
        self._hang_timeout = hang_timeout
        self._on_start = on_start
        self._on_progress = on_progress
        self._on_death = on_death
        self._log = log
        self._process: AnyProcess | None = None  # from the moment that it is started
        self._watcher: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[Worker] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._deaths = 0
        self._last_death: EngineDeadError | None = None
        self.owner_pid = os.getpid()
        """The process that it belongs to."""
        self._end_message: str | None = None
        self.worker: Worker | None = None
        """The worker that is up, if one is."""
        self.starts = 0
        """How many workers have come up."""
        self._last_connection: WorkerConnection | None = None
        self._earlier_traffic = (0, 0)
        _supervisors.add(self)

    @property
    def pid(self) -> int | None:
        """The worker's process id, while there is one on this machine."""
        return None if self._process is None else self._process.pid

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes sent to, and received from, all workers that have come up."""
        (sent, received), last = self._earlier_traffic, self._last_connection
        if last is None:
            return sent, received
        return sent + last.bytes_sent, received + last.bytes_received

    @property
    def terminated(self) -> bool:
        """Whether `terminate` was called."""
        return self._end_message is not None

    def check_alive(self) -> None:
        """Refuse calls after `terminate`.

        Raises:
            EngineTerminatedError: `terminate` was called.
        """
        if self._end_message is not None:
            raise EngineTerminatedError(self._end_message)

    def living(self) -> Worker | None:
        """The worker, if one is up; none is started."""
        self.check_alive()
        return self.worker

    def reset_death_count(self) -> None:
        """Reset the count of deaths: a request was answered, or the user tries again."""
        self._deaths = 0

    def count_as_one(self, deaths: int) -> None:
        """Count the last `deaths` deaths as one: they had one cause, which will not recur."""
        self._deaths = max(self._deaths - deaths + 1, 0)

    async def up(self) -> Worker:
        """A worker that is up, started if needed.

        Raises:
            WorkerStartError: it could not be started; the message ends with its last output.
            EngineDeadError: it died too often.
        """
        self.check_alive()
        if self.worker is not None:
            return self.worker
        if self._deaths >= _MAX_DEATHS:
            raise EngineDeadError(
                f"The worker died {self._deaths} times in a row and is not restarted "
                f"automatically any more: call reload() to try again. Last: {self._last_death}"
            )
        if self._starting is None or self._starting.done():
            self._starting = shared_task(self._start())
        starting = self._starting
        try:
            # Shielded: whoever asked first may go, others may be waiting for the same worker.
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            if starting.cancelled():
                self.check_alive()
            raise
        finally:
            if starting.done() and self._starting is starting:
                self._starting = None

    async def _start(self) -> Worker:
        self._log.use()
        self._publisher.update(state="starting", error=None, progress=None)
        try:
            if self._ending is not None:  # two at once may want more memory than there is
                await asyncio.wait({self._ending})
            worker = await self._start_process()
        except BaseException as error:
            self._process = None
            if isinstance(error, Exception):
                self._log.failed("The start of a worker", error)
            known = error if isinstance(error, MLCEngineError) else None
            self._publisher.update(state="dead", models=(), error=known)
            raise
        self.worker = worker
        self.starts += 1
        where = "" if self.pid is None else f" (process {self.pid})"
        self._log.note(f"Worker {self.starts} is up{where}.")
        self._earlier_traffic, self._last_connection = self.traffic, worker.connection
        self._on_start(worker)
        self._publisher.update(state="idle", device=worker.hello.get("device"))
        self._watcher = asyncio.create_task(self._watch(worker))
        return worker

    async def _start_process(self) -> Worker:
        while True:
            self._process = process = self._make_process()
            try:
                return await Worker.start(
                    process,
                    self._start_timeout,
                    self._on_progress,
                    self._publisher,
                    self._hang_timeout,
                    self._log,
                )
            except MLCEngineError as error:
                if not process.was_ending(error):
                    raise

    async def _watch(self, worker: Worker) -> None:
        started = asyncio.get_running_loop().time()
        self._last_death = error = await worker.died()
        self.worker = self._process = None
        stable = asyncio.get_running_loop().time() - started > _STABLE_S
        self._log.note(f"Worker {self.starts}: {_how(error)}", level="ERROR")
        self._deaths = 1 if stable else self._deaths + 1
        self._on_death(error)
        await worker.stop()

    async def retire(self, worker: Worker) -> None:
        """End a worker whose process can load nothing more; the next call starts a new one."""
        with contextlib.suppress(MLCEngineError):
            await worker.call("unload")  # what runs on it ends as after any unload
        if self.worker is worker:
            self._log.note(f"Worker {self.starts} can load nothing more, and is ended.")
            worker.connection.fail(EngineDeadError("The worker was ended before it answered."))
            await asyncio.shield(self._end(worker))

    async def restart(self) -> None:
        """Kill the worker, even if it hangs; a new one replaces it, as after a crash.

        A shared worker is killed only if it hangs, and otherwise left and joined again. If a worker
        is just being started, it is kept.
        """
        self.check_alive()
        if (worker := self.worker) is not None:
            self._log.note(f"Worker {self.starts} is ended, to be replaced by another.")
            worker.connection.fail(EngineDeadError("The worker was restarted."), replaced=True)
            self._end(worker, restart=True)
        self.reset_death_count()

    def _end(self, worker: Worker, *, restart: bool = False) -> asyncio.Task[None]:
        """Forget the worker and end it in the background."""
        self.worker = self._process = None
        if self._watcher is not None:
            self._watcher.cancel()
        self._ending = shared_task(worker.stop(restart=restart))
        return self._ending

    async def terminate(self, message: str) -> None:
        """End the worker for good. Idempotent.

        Args:
            message: The message of the `EngineTerminatedError` for waiting and later calls.
        """
        self._end_message = message = self._end_message or message
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        if self._ending is not None:
            await asyncio.wait({self._ending})
        worker, self.worker, self._process = self.worker, None, None
        if worker is not None:
            worker.connection.fail(EngineTerminatedError(message))
        if self._watcher is not None:
            if worker is not None:  # else it is just cleaning up after a death
                self._watcher.cancel()
            await asyncio.wait({self._watcher})
        if worker is not None:
            await worker.stop()
        _supervisors.discard(self)
        self._publisher.update(state="terminated", models=(), error=EngineTerminatedError(message))

    def tell_end(self) -> concurrent.futures.Future[None] | None:
        """Start no other worker, and begin to end one that has to be told; done once it was.

        For the interpreter's exit, before `kill`.
        """
        self._end_message = self._end_message or "The program is ending."
        return None if self._process is None else self._process.tell_end()

    def kill(self) -> None:
        """End the worker at once: for the interpreter's exit."""
        if self._process is not None:
            self._process.kill()


def _how(death: EngineDeadError) -> str:
    """How a worker died, without its output and what others say of it."""
    return death.message.partition("\n")[0].partition(":")[0].rstrip(".") + "."


def shared_task(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Make a task that any number of callers may await, shielded."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda t: None if t.cancelled() else t.exception() and None)
    return task


_supervisors: weakref.WeakSet[WorkerSupervisor] = weakref.WeakSet()


@atexit.register
def _kill_workers() -> None:
    """End all workers before the interpreter ends the threads that look after them."""
    # A forked child must leave its parent's workers alone.
    mine = [s for s in list(_supervisors) if s.owner_pid == os.getpid()]

    told: dict[WorkerSupervisor, concurrent.futures.Future[None]] = {}
    deadline = time.monotonic() + _TOLD_S

    async def kill() -> None:
        for supervisor in mine:  # all of them at once, as each may be hard to reach
            with contextlib.suppress(Exception):
                if supervisor not in told and (ending := supervisor.tell_end()) is not None:
                    told[supervisor] = ending
        for supervisor in mine:
            if supervisor not in told:
                with contextlib.suppress(Exception):
                    supervisor.kill()
        concurrent.futures.wait(told.values(), max(0.0, deadline - time.monotonic()))
        for supervisor in told:
            with contextlib.suppress(Exception):
                supervisor.kill()

    if mine:
        try:
            # On their own thread: in the midst of a step it might start a worker, or a folder of
            # its own, after this has looked.
            HomeLoop.shared().submit(kill()).result(_EXIT_S)
        except Exception:  # that thread hangs
            asyncio.run(kill())
