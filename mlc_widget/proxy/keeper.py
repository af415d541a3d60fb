"""Keeps a worker: starts it when needed, watches it, has it load what is expected, ends it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from mlc_widget.api.app_config import AppConfig
from mlc_widget.api.errors import (
    EngineDeadError,
    EngineTerminatedError,
    LoadCancelledError,
    MLCEngineError,
    ModelNotLoadedError,
)
from mlc_widget.api.load_request import LoadTarget
from mlc_widget.api.progress import InitProgressCallback, InitProgressReport
from mlc_widget.api.requests import JSONDict
from mlc_widget.proxy.connection import WorkerConnection
from mlc_widget.proxy.process import WorkerProcess
from mlc_widget.proxy.state import SnapshotBoard
from mlc_widget.proxy.worker import Worker

_MAX_DEATHS: Final = 3
"""Quick deaths in a row after which a worker is not restarted until the next `reload`."""
_STABLE_S: Final = 60.0
"""A worker that lived this long did not die of its start or its model."""


@dataclass(frozen=True, slots=True)
class _Expected:
    """What the worker is to have loaded, and the app config by whose names."""

    target: LoadTarget
    app_config: AppConfig

    @property
    def title(self) -> str:
        return ", ".join(self.target.model_ids)

    def content(self) -> JSONDict:
        """As messages carry it."""
        return {
            "modelId": list(self.target.model_ids),
            "chatOpts": [dict(o) for o in self.target.chat_opts],
            "appConfigHash": self.app_config.digest,
        }


class WorkerKeeper:
    """One worker's owner, on the home loop: at most one worker is up at any time.

    Args:
        make_process: Makes a worker's process, not yet started.
        board: Where the engine's state is shown.
        start_timeout: Seconds that a worker may take to answer.
    """

    def __init__(
        self,
        make_process: Callable[[], WorkerProcess],
        board: SnapshotBoard,
        start_timeout: float,
    ) -> None:
        self.on_progress: InitProgressCallback | None = None
        self._app_config = AppConfig()
        self._make_process = make_process
        self._board = board
        self._start_timeout = start_timeout
        self._process: WorkerProcess | None = None  # from the moment that it is started
        self._worker: Worker | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[Worker] | None = None
        self._restoring: asyncio.Task[None] | None = None
        self._retiring: asyncio.Task[None] | None = None
        self._expected: _Expected | None = None
        self._last_target: LoadTarget | None = None
        self._loads = 0
        self._deaths = 0
        self._owner_pid = os.getpid()
        self._log_level: str | None = None
        self._terminated = False
        _keepers.add(self)

    @property
    def pid(self) -> int | None:
        """The worker's process id, while there is one on this machine."""
        return None if self._process is None else self._process.pid

    # Getting a connection

    def _check_alive(self) -> None:
        if self._terminated:
            raise EngineTerminatedError("This engine was terminated; make a new one.")

    def living(self) -> WorkerConnection | None:
        """The connection to the worker, if one is up; none is started."""
        self._check_alive()
        return None if self._worker is None else self._worker.connection

    async def connected(self) -> WorkerConnection:
        """The connection to a worker, which is started if there is none."""
        return (await self._up()).connection

    async def serving(self) -> tuple[WorkerConnection, JSONDict]:
        """The connection to a worker with the expected models loaded, and these as content.

        A worker that died since they were loaded is replaced, and loads them first.

        Raises:
            ModelNotLoadedError: no models are expected.
            EngineDeadError: the worker died too often.
        """
        while True:
            expected = self._expect()
            worker = await self._up()
            if self._expect() is not expected:
                continue  # a reload came between
            if worker.loaded:
                return worker.connection, expected.content()
            if self._restoring is None:
                self._restoring = self._background(self._restore(worker, expected), "_restoring")
            await asyncio.shield(self._restoring)

    def _expect(self) -> _Expected:
        self._check_alive()
        if self._expected is not None:
            return self._expected
        now = self._board.snapshot
        if now.state in ("starting", "loading") and now.model_id:
            raise ModelNotLoadedError(f"{now.model_id} is still loading: await reload.")
        raise ModelNotLoadedError("No model is loaded: call reload(model_id) first.")

    async def _up(self) -> Worker:
        self._check_alive()
        if self._worker is not None:
            return self._worker
        if self._deaths >= _MAX_DEATHS:
            raise EngineDeadError(
                f"The worker died {self._deaths} times in a row and is not restarted by itself "
                f"any more: call reload() to try again. The last time: {self._last_death}"
            )
        if self._starting is None:
            self._starting = self._background(self._start(), "_starting")
        starting = self._starting
        try:
            # Shielded: whoever asked first may go, others may be waiting for the same worker.
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            if starting.cancelled():
                self._check_alive()
            raise

    def _background(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """A task that several may wait for; forgets itself when it is done."""
        task = asyncio.create_task(work)

        def done(task: asyncio.Task[Any]) -> None:
            if getattr(self, name) is task:
                setattr(self, name, None)
            if not task.cancelled():
                task.exception()  # whoever still waits raises it; nobody may

        task.add_done_callback(done)
        return task

    async def _start(self) -> Worker:
        self._board.update(state="starting", error=None, progress=None)
        self._process = process = self._make_process()
        try:
            worker = await Worker.start(process, self._start_timeout, self._progress)
        except BaseException as error:
            self._process = None
            known = error if isinstance(error, MLCEngineError) else None
            self._board.update(state="dead", model_id=None, error=known)
            raise
        self._worker = worker
        connection = worker.connection
        configs = [self._app_config]
        if self._expected is not None:
            configs.insert(0, self._expected.app_config)
        for config in configs:
            if config.source is not None:
                connection.post("setAppConfig", config.source)
        if self._log_level is not None:
            connection.post("setLogLevel", self._log_level)
        self._board.update(state="idle", device=worker.hello.get("device"))
        self._watcher = asyncio.create_task(self._watch(worker))
        return worker

    async def _watch(self, worker: Worker) -> None:
        started = asyncio.get_running_loop().time()
        self._last_death = error = await worker.died()
        self._worker = self._process = None
        stable = asyncio.get_running_loop().time() - started > _STABLE_S
        self._deaths = 1 if stable else self._deaths + 1
        if self._board.snapshot.state == "loading":
            # Whatever killed it may do so again: do not load it unasked.
            self._expected = None
        title = self._expected.title if self._expected else None
        self._board.update(state="dead", error=error, model_id=title)
        await worker.stop()

    # Loading

    async def load(self, target: LoadTarget) -> None:
        """Have the worker load `target`; a newer load or unload ends it.

        Raises:
            MLCEngineError: why it could not.
        """
        self._check_alive()
        self._loads += 1
        load = self._loads
        self._expected = None
        self._last_target = target
        self._deaths = 0
        wanted = _Expected(target, self._app_config)
        try:
            await self._load_into(await self._up_for(wanted, load), wanted, load)
        except EngineDeadError as error:
            if error.code != "fresh_process_needed" or load != self._loads:
                raise
            # The load that this one ended had used the process up, and nobody knew yet.
            if self._worker is not None:
                self._worker.spent = True
            await self._load_into(await self._up_for(wanted, load), wanted, load)

    async def _up_for(self, wanted: _Expected, load: int) -> Worker:
        """A worker whose process can load."""
        self._board.update(model_id=wanted.title, progress=None, error=None)
        try:
            if self._retiring is not None:
                await asyncio.wait({self._retiring})
            if self._worker is not None and self._worker.spent:
                await self._retire(self._worker)
            worker = await self._up()
            if load != self._loads:
                raise LoadCancelledError("A newer reload or unload ended this load.")
        except BaseException as error:
            self._load_failed(load, error)
            raise
        return worker

    async def _load_into(self, worker: Worker, wanted: _Expected, load: int) -> None:
        worker.loaded = False
        self._board.update(state="loading", model_id=wanted.title, progress=None, error=None)
        try:
            await worker.connection.call("reload", wanted.content())
            info = await worker.connection.call("deviceInfo")
        except BaseException as error:
            if load == self._loads and isinstance(error, asyncio.CancelledError):
                worker.connection.post("unload")
            if self._worker is worker:
                self._load_failed(load, error)
                if load == self._loads:
                    self._retiring = self._background(self._retire_if_spent(worker), "_retiring")
            raise
        worker.spent = bool(info.get("fresh_process_needed"))
        if load == self._loads and self._worker is worker:
            self._expected = wanted
            worker.loaded = True
            self._board.update(state="ready", error=None, device=info.get("device"))

    def _load_failed(self, load: int, error: BaseException) -> None:
        if load == self._loads and not self._terminated:
            self._expected = None
            known = error if isinstance(error, MLCEngineError) else None
            state = "idle" if self._worker is not None else "dead"
            self._board.update(state=state, model_id=None, error=known)

    async def _restore(self, worker: Worker, expected: _Expected) -> None:
        """Load the expected models into a worker that took another's place."""
        self._loads += 1
        await self._load_into(worker, expected, self._loads)

    async def unload(self) -> None:
        """Unload all models and end a load that runs; the worker stays, if it can load again."""
        connection = self.living()
        self._loads += 1
        load = self._loads
        self._expected = None
        if self._worker is not None and self._worker.spent:
            await self._retire(self._worker)
        elif connection is not None:
            await connection.call("unload")
        if load == self._loads and self._board.snapshot.state in ("ready", "loading", "idle"):
            self._board.update(state="idle", model_id=None, progress=None, error=None)

    async def _retire_if_spent(self, worker: Worker) -> None:
        """After a load that failed: it may have left a process that holds memory for nothing."""
        await worker.connection.call("unload")  # a cancelled one may still be ending
        info = await worker.connection.call("deviceInfo")
        worker.spent = bool(info.get("fresh_process_needed"))
        if worker.spent and not worker.loaded:
            await self._retire(worker)

    async def _retire(self, worker: Worker) -> None:
        """End a worker whose process can load nothing more; the next load starts another."""
        with contextlib.suppress(EngineDeadError):
            await worker.connection.call("unload")  # what runs on it ends as after any unload
        if self._worker is worker:
            self._worker = self._process = None
            if self._watcher is not None:
                self._watcher.cancel()
            await worker.stop()

    async def restart(self) -> None:
        """End the worker, whatever it does, and load in another what was last asked for.

        Raises:
            ModelNotLoadedError: no load was ever asked for.
            MLCEngineError: why it could not be loaded.
        """
        self._check_alive()
        if self._last_target is None:
            raise ModelNotLoadedError("No model was loaded yet: call reload(model_id).")
        if self._starting is not None:
            await asyncio.wait({self._starting})
        worker = self._worker
        if worker is not None:
            self._worker = self._process = None
            if self._watcher is not None:
                self._watcher.cancel()
            worker.connection.fail(EngineDeadError("The worker was restarted."))
            await worker.stop()
        self._deaths = 0
        if self._expected is not None:
            await self.serving()  # requests that come meanwhile wait for the same load
        else:
            await self.load(self._last_target)

    def cancel_load(self) -> None:
        """End a start or load that runs; whoever awaits it gets `LoadCancelledError`."""
        if self._board.snapshot.state == "starting":
            self._loads += 1  # the load finds itself superseded once the worker is up
            self._board.update(model_id=None)
        elif self._board.snapshot.state == "loading" and self._worker is not None:
            self._worker.connection.post("unload")

    def _progress(self, report: InitProgressReport) -> None:
        if self._board.snapshot.state == "loading":
            self._board.update(progress=report)
        if self.on_progress is not None:
            self.on_progress(report)

    # Settings that outlive a worker

    async def set_app_config(self, config: AppConfig) -> None:
        """Set the names for the next load, here and in the worker."""
        connection = self.living()
        self._app_config = config
        if connection is not None:
            connection.post("setAppConfig", config.source)

    async def set_log_level(self, level: str) -> None:
        """Set the worker's log level."""
        connection = self.living()
        self._log_level = level
        if connection is not None:
            connection.post("setLogLevel", level)

    # The end

    async def terminate(self) -> None:
        """End the worker for good. Idempotent."""
        self._terminated = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        worker, self._worker, self._process = self._worker, None, None
        if worker is not None:
            worker.connection.fail(EngineTerminatedError("This engine was terminated."))
        if self._watcher is not None:
            if worker is not None:  # else it is just cleaning up after a death
                self._watcher.cancel()
            await asyncio.wait({self._watcher})
        if worker is not None:
            await worker.stop()
        _keepers.discard(self)
        self._board.update(state="terminated", model_id=None)

    def kill(self) -> None:
        """End the worker at once, without waiting: for the interpreter's exit."""
        # A forked child must leave its parent's worker alone.
        if self._process is not None and self._owner_pid == os.getpid():
            self._process.kill()


_keepers: weakref.WeakSet[WorkerKeeper] = weakref.WeakSet()


@atexit.register
def _kill_workers() -> None:
    for keeper in list(_keepers):
        with contextlib.suppress(Exception):
            keeper.kill()
