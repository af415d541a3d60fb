"""The models that the worker should have loaded, even after it was replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mlc_widget.api.app_config import AppConfig
from mlc_widget.api.engine_link import FailedLoad
from mlc_widget.api.engine_log import EngineLog
from mlc_widget.api.errors import (
    EngineDeadError,
    LoadCancelledError,
    MLCEngineError,
    ModelNotLoadedError,
)
from mlc_widget.api.load_request import LoadTarget
from mlc_widget.api.progress import InitProgressCallback, InitProgressReport
from mlc_widget.api.requests import JSONDict
from mlc_widget.api.snapshot_publisher import SnapshotPublisher
from mlc_widget.proxy.connection import WorkerConnection
from mlc_widget.proxy.supervisor import WorkerSupervisor, shared_task
from mlc_widget.proxy.worker import AnyProcess, Worker


@dataclass(frozen=True, slots=True)
class _Expected:
    """The models that the worker should have loaded, and the config that defines their names."""

    target: LoadTarget
    app_config: AppConfig

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.target.model_ids)

    def content(self) -> JSONDict:
        """The fields for a message."""
        return {
            "modelId": list(self.target.model_ids),
            "chatOpts": [dict(o) for o in self.target.chat_opts],
            "appConfigHash": self.app_config.digest,
        }


class RemoteModels:
    """Loads and unloads models in the worker, and finds a worker for each request.

    On the home loop.

    Args:
        make_process: Makes a worker's process, not yet started.
        publisher: Gets the engine's state.
        start_timeout: Seconds within which a new worker must answer.
        hang_timeout: Seconds without a response after which a hang is reported; see `HangWatch`.
        log: Gets what happens to the workers.
    """

    def __init__(
        self,
        make_process: Callable[[], AnyProcess],
        publisher: SnapshotPublisher,
        start_timeout: float,
        hang_timeout: float,
        log: EngineLog,
    ) -> None:
        self.on_progress: InitProgressCallback | None = None
        self.log = log
        self.supervisor = WorkerSupervisor(
            make_process,
            publisher,
            start_timeout,
            hang_timeout,
            on_start=self._configure,
            on_progress=self._progress,
            on_death=self._died,
            log=log,
        )
        self._publisher = publisher
        self._expected: _Expected | None = None
        self._wanted: _Expected | None = None  # while it is being loaded
        self._loading: asyncio.Future[None] | None = None  # done when no `load` runs any more
        self._loads_running = 0
        self._asked = False  # whether the worker was asked for what is wanted
        self._reawakened = False  # whether the worker loads again what it had unloaded
        self._had_models = False  # whether the worker had any when the running loads began
        self._first_attempt: InitProgressReport | None = None  # its last report, once it has failed
        self._last_target: LoadTarget | None = None
        self._restoring: asyncio.Task[None] | None = None
        self._returning: asyncio.Task[Any] | None = None
        self._begun: asyncio.Task[None] | None = None
        self._retiring: asyncio.Task[None] | None = None
        self._loads = 0  # loads and unloads so far: the newest counts
        self._app_config = AppConfig()
        self._log_level: str | None = None

    async def serving(self) -> tuple[WorkerConnection, JSONDict]:
        """A connection to a worker that has the expected models, and their names for a message.

        While others are being loaded, these are the ones that were loaded before, as long as the
        worker has them. If the worker has died, a new one is started and loads them first.

        Raises:
            ModelNotLoadedError: no models are expected.
            EngineDeadError: the worker died too often.
            MLCEngineError: why the load that was begun, and waited for, has failed.
        """
        await self.begun()
        while True:
            expected = self._expect()
            worker = self.supervisor.worker
            if self._loading is not None and (worker is None or not worker.loaded):
                await asyncio.wait({self._loading})
                continue
            worker = await self.supervisor.up()
            if self._expect() is not expected:
                continue  # a reload came between
            if self._loading is not None and not worker.loaded:
                continue  # one has begun, and is not to be cancelled by this
            if worker.loaded:
                return worker.connection, expected.content()
            if self._restoring is None or self._restoring.done():
                self._loads += 1  # now: a load that begins before the task does is newer
                self._restoring = shared_task(self._restore(worker, expected, self._loads))
            await asyncio.shield(self._restoring)

    def _expect(self) -> _Expected:
        self.supervisor.check_alive()
        if self._expected is not None:
            return self._expected
        now = self._publisher.snapshot
        if now.state in ("starting", "loading") and now.model_id:
            raise ModelNotLoadedError(f"{now.model_id} is still loading: await reload.")
        raise ModelNotLoadedError.none_is_loaded("" if now.error is None else now.error.message)

    # Loading

    def begin(self, target: LoadTarget) -> None:
        """Begin to load `target`, where nobody awaits it; `begun` does.

        Raises:
            EngineTerminatedError: after `terminate`.
        """
        self.supervisor.check_alive()
        self._begun = shared_task(self.load(target))

    async def begun(self) -> None:
        """Wait for the load that was begun, if one is on its way.

        Raises:
            MLCEngineError: why it has failed, unless other models stay loaded.
        """
        while (begun := self._begun) is not None and not begun.done():
            await asyncio.wait({begun})
            if begun is self._begun and not begun.cancelled() and self._expected is None:
                error = begun.exception()
                if isinstance(error, MLCEngineError) and not isinstance(error, LoadCancelledError):
                    raise error.copy()

    async def load(self, target: LoadTarget) -> None:
        """Load `target` in the worker; a newer load or unload cancels it.

        What was loaded before answers until `target` is ready, and stays if the load fails.

        Raises:
            MLCEngineError: why the load failed.
        """
        self.supervisor.check_alive()
        self.supervisor.reset_death_count()
        self._loads += 1
        load = self._loads
        self._last_target = target
        self._wanted = wanted = _Expected(target, self._app_config)
        self._asked = self._reawakened = False
        self._first_attempt = None
        self._publisher.update(failed=None)
        self._loads_running += 1
        if self._loading is None:
            self._loading = asyncio.get_running_loop().create_future()
            worker = self.supervisor.worker
            self._had_models = worker is not None and worker.loaded
        try:
            await self._load(wanted, load)
        except BaseException as error:
            kept = self._expected
            if load == self._loads and kept is not None:
                if self._had_models or kept.target != target:
                    await asyncio.shield(shared_task(self._keep(kept, wanted, load, error)))
                else:  # what died with its worker could not be loaded again either
                    self._give_up(load, error)
            raise
        finally:
            if self._wanted is wanted:
                self._wanted = None
            self._loads_running -= 1
            if not self._loads_running:
                self._loading.set_result(None)
                self._loading = None

    async def _load(self, wanted: _Expected, load: int) -> None:
        try:
            await self._load_into(await self._worker_for(wanted, load), wanted, load)
        except EngineDeadError as error:
            if error.code != "fresh_process_needed" or load != self._loads:
                raise
            # Nothing else is wrong with what is wanted, so now the old process may end.
            self._first_attempt = self._publisher.snapshot.progress
            if (worker := self.supervisor.worker) is not None:
                worker.needs_fresh_process, worker.loaded = True, False
            await self._load_into(await self._worker_for(wanted, load), wanted, load)

    async def _keep(
        self, kept: _Expected, wanted: _Expected, load: int, error: BaseException
    ) -> None:
        """After a failed load, go on with what was loaded before."""
        self._last_target = kept.target
        failed = None
        if isinstance(error, MLCEngineError) and not isinstance(error, LoadCancelledError):
            failed = FailedLoad(", ".join(wanted.models), error)
        worker = self.supervisor.worker
        try:
            if worker is not None:
                await worker.call("cancelLoad")  # it may still be ending
                there = [model["id"] for model in await worker.call("listModels")]
                worker.loaded = there == list(kept.target.model_ids)
                info = await worker.call("deviceInfo")
                worker.needs_fresh_process = bool(info.get("fresh_process_needed"))
                if worker.needs_fresh_process and not worker.loaded:
                    await self.supervisor.retire(worker)
        except MLCEngineError:
            if worker is self.supervisor.worker and worker is not None:
                await self.supervisor.retire(worker)  # it cannot even do this
        if load != self._loads or self._expected is not kept or self.supervisor.terminated:
            return
        if worker is None or isinstance(error, EngineDeadError):
            # The next request restores it.
            self._publisher.update(models=kept.models, failed=failed)
        elif worker.loaded and worker is self.supervisor.worker:
            self._publisher.update(state="ready", models=kept.models, error=None, failed=failed)
        elif self._had_models:
            self._return_to(kept, failed)
        else:  # the next request restores it, as before this load
            self._publisher.update(state="idle", models=kept.models, error=None, failed=failed)

    def _give_up(self, load: int, error: BaseException) -> None:
        """Expect nothing more after a failed load."""
        self._expected = None
        self._load_failed(load, error)
        if (worker := self.supervisor.worker) is not None:
            self._retiring = shared_task(self._retire_if_spent(worker))

    def _return_to(self, kept: _Expected, failed: FailedLoad | None = None) -> None:
        """Load again what was loaded before, where nobody waits for it."""
        self._publisher.update(state="idle", models=kept.models, error=None, failed=failed)
        self._returning = shared_task(self.serving())

    async def _worker_for(self, wanted: _Expected, load: int) -> Worker:
        """A worker for a load; one that has models stays as long as it responds."""
        if self.supervisor.worker is not None:
            self._publisher.update(state="loading")
        self._publisher.update(models=wanted.models, progress=None, error=None)
        try:
            if self._retiring is not None:
                await asyncio.wait({self._retiring})
            old = self.supervisor.worker
            spent = old is not None and old.needs_fresh_process and not old.loaded
            if old is not None and (spent or not await old.responds()):
                await self.supervisor.retire(old)
            worker = await self.supervisor.up()
            if load != self._loads:
                raise LoadCancelledError("A newer reload or unload cancelled this load.")
        except BaseException as error:
            self._load_failed(load, error)
            raise
        return worker

    async def _restore(self, worker: Worker, expected: _Expected, load: int) -> None:
        """Load the expected models into a new worker, unless a newer load has begun."""
        if load != self._loads:
            return
        self._wanted, self._first_attempt = expected, None
        try:
            await self._load_into(worker, expected, load)
        finally:
            if self._wanted is expected:
                self._wanted = None

    async def _load_into(self, worker: Worker, wanted: _Expected, load: int) -> None:
        self._publisher.update(state="loading", models=wanted.models, progress=None, error=None)
        self._asked = True
        try:
            await worker.connection.call("reload", wanted.content())
            if load == self._loads and self.supervisor.worker is worker:
                self._expected, worker.loaded = wanted, True  # at once: others are gone
            info = await worker.call("deviceInfo")
        except BaseException as error:
            if load == self._loads and isinstance(error, asyncio.CancelledError):
                worker.connection.post("cancelLoad")
            if self.supervisor.worker is worker:
                self._load_failed(load, error)
                if load == self._loads and self._expected is None:
                    self._retiring = shared_task(self._retire_if_spent(worker))
            raise
        worker.needs_fresh_process = bool(info.get("fresh_process_needed"))
        if load == self._loads and self.supervisor.worker is worker:
            self._publisher.update(state="ready", error=None, device=info.get("device"))

    def _load_failed(self, load: int, error: BaseException) -> None:
        if self._expected is not None and self._expected is not self._wanted:
            return  # it stays; see `_keep`
        if load == self._loads and not self.supervisor.terminated:
            self._expected = None
            known = error if isinstance(error, MLCEngineError) else None
            state = "idle" if self.supervisor.worker is not None else "dead"
            self._publisher.update(state=state, models=(), error=known)

    async def unload(self) -> None:
        """Unload all models and cancel a running load; the worker stays if it can load again."""
        worker = self.supervisor.living()
        self._loads += 1
        load = self._loads
        self._expected, self._reawakened = None, False
        if worker is not None and worker.needs_fresh_process:
            await self.supervisor.retire(worker)
        elif worker is not None:
            try:
                await worker.call("unload")
            except MLCEngineError:
                if self.supervisor.worker is not worker:
                    raise
                await self.supervisor.retire(worker)  # it cannot even do this
        if load == self._loads and self._publisher.snapshot.state in ("ready", "loading", "idle"):
            self._publisher.update(state="idle", models=(), progress=None, error=None, failed=None)

    async def _retire_if_spent(self, worker: Worker) -> None:
        """After a failed load, end a worker that can load nothing more but still holds memory."""
        try:
            await worker.call("unload")  # a cancelled one may still be ending
            info = await worker.call("deviceInfo")
            worker.needs_fresh_process |= bool(info.get("fresh_process_needed"))
        except MLCEngineError:
            worker.needs_fresh_process = True  # it cannot even do this
        if worker.needs_fresh_process and not worker.loaded:
            await self.supervisor.retire(worker)

    async def restart(self) -> None:
        """Kill the worker, even if it hangs, and load the last requested models in a new one.

        Raises:
            ModelNotLoadedError: no load was ever asked for.
            MLCEngineError: why it could not be loaded.
        """
        self.supervisor.check_alive()
        last = self._last()
        await self.supervisor.restart()
        if self._expected is not None:
            await self.serving()  # requests that come meanwhile wait for the same load
        else:
            await self.load(last)

    async def load_again(self) -> None:
        """Repeat the last load, with the same `chat_opts`.

        Raises:
            ModelNotLoadedError: no load was ever asked for.
            MLCEngineError: why it could not be loaded.
        """
        await self.load(self._last())

    def _last(self) -> LoadTarget:
        if self._last_target is None:
            raise ModelNotLoadedError("No model has been loaded yet: call reload(model_id).")
        return self._last_target

    def cancel_load(self) -> None:
        """Cancel the start or load that is running; awaiting it raises `LoadCancelledError`.

        What was loaded before stays.
        """
        kept, worker, state = self._expected, self.supervisor.worker, self._publisher.snapshot.state
        if state not in ("starting", "loading"):
            return
        if worker is not None:
            worker.connection.post("cancelLoad")
        if state == "loading" and self._asked:
            return
        self._loads += 1  # the load finds itself superseded before it asks the worker
        if kept is None:
            self._publisher.update(models=(), state="starting" if worker is None else "idle")
        elif worker is not None and worker.loaded:
            self._publisher.update(state="ready", models=kept.models)
        else:
            self._return_to(kept)

    # What the supervisor tells

    def _progress(self, report: InitProgressReport) -> None:
        first = self._first_attempt
        if first is not None and self._loads_running:  # one load, which does not go back
            report = replace(
                report,
                progress=max(first.progress, report.progress),
                time_elapsed=first.time_elapsed + report.time_elapsed,
            )
        state, worker = self._publisher.snapshot.state, self.supervisor.worker
        if state == "ready" and worker is not None and worker.shared and not self._loads_running:
            # It had unloaded them, as nobody used them, and loads them for a request.
            self._reawakened, state = True, "loading"
        if self._reawakened and report.progress == 1:
            self.request_ended()
        elif state == "loading":
            self._publisher.update(state=state, progress=report)
        if self.on_progress is not None:
            self.on_progress(report)

    def request_ended(self) -> None:
        """A request was answered, or failed: so has the load that it needed, if any."""
        if self._reawakened:
            self._reawakened = False
            self._publisher.update(state="ready")

    def _died(self, error: EngineDeadError) -> None:
        self._reawakened = False
        if self._expected is self._wanted:
            # Whatever killed it may do so again: do not load it unasked.
            self._expected = None
        models = self._expected.models if self._expected else ()
        self._publisher.update(state="dead", error=error, models=models)

    def _configure(self, worker: Worker) -> None:
        """Send a new worker the settings of the one before it."""
        configs = [self._app_config]
        if self._expected is not None:
            configs.insert(0, self._expected.app_config)
        for config in configs:
            if config.source is not None:
                worker.connection.post("setAppConfig", config.source)
        if self._log_level is not None:
            worker.connection.post("setLogLevel", self._log_level)

    # Settings that outlive a worker

    async def set_app_config(self, config: AppConfig) -> None:
        """Set the names for the next load, here and in the worker."""
        worker = self.supervisor.living()
        self._app_config = config
        if worker is not None:
            worker.connection.post("setAppConfig", config.source)

    async def set_log_level(self, level: str) -> None:
        """Set the worker's log level."""
        worker = self.supervisor.living()
        self._log_level = level
        if worker is not None:
            worker.connection.post("setLogLevel", level)
