"""The models of a shared worker: each client loads and unloads as if it were alone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from mlc_widget.api.app_config import AppConfig
from mlc_widget.api.errors import (
    EngineDeadError,
    InsufficientMemoryError,
    LoadCancelledError,
    ModelNotLoadedError,
    RuntimeUnavailableError,
)
from mlc_widget.api.load_request import LoadTarget
from mlc_widget.api.logit_processor import LogitProcessorFactory
from mlc_widget.api.progress import InitProgressCallback, InitProgressReport
from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.load_sequence import LoadSequence
from mlc_widget.engine.loaded_models import LoadedModels, replaced_error
from mlc_widget.engine.model import LoadedModel


class SharedModels:
    """What all clients of a process have loaded; clients that want the same models share them.

    Models that no client uses any more stay loaded until `unload_idle`, or until others need their
    memory.

    Args:
        runtime: The runtime's name, or ``auto``.
        runtime_options: Options of each runtime.
        logit_processors: Factories by model id.
    """

    def __init__(
        self,
        runtime: str,
        runtime_options: Mapping[str, Any] | None = None,
        logit_processors: Mapping[str, LogitProcessorFactory] | None = None,
    ) -> None:
        self._new_models = partial(LoadedModels, runtime, runtime_options, logit_processors)
        self._sets: list[_ModelSet] = []

    def new_models(self) -> LoadedModels:
        """An empty set of models."""
        return self._new_models(lambda: None)

    def find(self, target: LoadTarget, app_config: AppConfig) -> _ModelSet:
        """The set of these models, which need not be loaded."""
        self._sets = [s for s in self._sets if s.loaded or s.holders or s.waiting]
        wanted = (target, app_config.digest)
        for one in self._sets:
            if one.name == wanted:
                return one
        made = _ModelSet(self, target, app_config)
        self._sets.append(made)
        return made

    def check_room(self, wanted: _ModelSet) -> None:
        """Refuse to load into a process whose runtime can load nothing more.

        Raises:
            RuntimeUnavailableError: It can load nothing more.
        """
        if any(one.models.fresh_process_needed for one in self._sets):
            there = ", ".join(n for one in self._sets if one.loaded for n in one.models.names())
            raise RuntimeUnavailableError(
                f"This shared worker cannot load {', '.join(wanted.target.model_ids)}: its runtime "
                f"loads only one model per process{there and ', which is ' + there}. Choose "
                "another name for `share`."
            )

    async def make_room(self, wanted: _ModelSet) -> bool:
        """Unload the set that was not asked for for the longest time, if any is idle.

        It is loaded again when one of its clients asks for it.

        Returns:
            Whether one was unloaded.
        """
        idle = [one for one in self._sets if one is not wanted and one.idle]
        if not idle:
            return False
        await min(idle, key=lambda one: one.last_used).models.unload()
        return True

    async def unload_idle(self, seconds: float) -> None:
        """Unload all models that no request has used for this number of seconds."""
        now = time.monotonic()
        for one in list(self._sets):
            if one.busy:
                one.last_used = now
            elif one.idle and now - one.last_used >= seconds:
                await one.models.unload()

    def describe(self) -> list[JSONDict]:
        """Each model that is loaded or in use, with how many clients use it."""
        now = time.monotonic()
        return [
            {
                "model": name,
                "state": one.models.state if one.models.state != "idle" else "unloaded",
                "clients": len(one.holders.union(one.waiting)),
                "idle_s": 0.0 if one.busy else now - one.last_used,
            }
            for one in self._sets
            if one.loaded or one.holders or one.waiting
            for name in one.target.model_ids
        ]


class _ModelSet:
    """Models that were asked for together, with the clients that use them."""

    def __init__(self, shared: SharedModels, target: LoadTarget, app_config: AppConfig) -> None:
        self.target = target
        self.models = shared.new_models()
        self.models.on_progress = self._progress
        self.models.on_dead = self._died
        self.holders: set[ClientModels] = set()
        self.waiting: list[ClientModels] = []  # once for each request
        self.last_used = time.monotonic()
        self._shared = shared
        self._app_config = app_config
        self._cancelling: asyncio.Task[None] | None = None

    @property
    def name(self) -> tuple[LoadTarget, str]:
        """The models, with their app config's digest."""
        return self.target, self._app_config.digest

    @property
    def loaded(self) -> bool:
        return self.models.state == "ready"

    @property
    def busy(self) -> bool:
        """Whether requests for these models are running, or wait for them."""
        return bool(self.waiting) or any(holder.is_busy() for holder in self.holders)

    @property
    def idle(self) -> bool:
        """Whether they take memory that they could give up."""
        return self.loaded and not self.busy and not self.models.fresh_process_needed

    async def up(self, client: ClientModels) -> None:
        """Load the models unless they are; a load ends early once all that wait have left."""
        self.last_used = time.monotonic()
        if self.loaded:
            return
        self._shared.check_room(self)
        self.waiting.append(client)
        try:
            while True:
                try:
                    await self.models.ensure(self.target, self._app_config)
                    return
                except LoadCancelledError:
                    continue  # by one that has left: this one has not
                except InsufficientMemoryError:
                    if not await self._shared.make_room(self):
                        raise
        finally:
            self.waiting.remove(client)
            self.last_used = time.monotonic()
            if not self.waiting and self.models.state == "loading":
                self._cancelling = asyncio.create_task(self.models.cancel_load())

    def _progress(self, report: InitProgressReport) -> None:
        for client in set(self.waiting):
            if client.on_progress is not None:
                client.on_progress(report)

    def _died(self, error: EngineDeadError) -> None:
        for client in self.holders.union(self.waiting):
            if client.on_dead is not None:
                client.on_dead(error)


class ClientModels:
    """The models of one client, with the interface of `LoadedModels`.

    Args:
        shared: The models of all clients.
        client: A name for the client, by which schedulers tell clients apart.
        before_unload: Called before the client's models change; ends its requests.
        is_busy: Whether the client has requests.

    Attributes:
        cache_salt: The `Sampling.cache_salt` of its requests; set before it loads anything.
    """

    fresh_process_needed = False
    """Never: what a process cannot load is refused, as others use it."""

    def __init__(
        self,
        shared: SharedModels,
        client: str,
        before_unload: Callable[[], None],
        is_busy: Callable[[], bool],
    ) -> None:
        self.on_progress: InitProgressCallback | None = None
        self.on_dead: Callable[[EngineDeadError], None] | None = None
        self.cache_salt = ""
        self.is_busy = is_busy
        self._shared = shared
        self._client = client
        self._before_unload = before_unload
        self._current: _ModelSet | None = None
        self._loading: _ModelSet | None = None
        self._loads = LoadSequence()
        self._views: dict[str, LoadedModel] = {}
        self._joined: tuple[tuple[LoadTarget, str], asyncio.Task[None]] | None = None

    def __iter__(self) -> Iterator[LoadedModel]:
        self._look()
        return iter(self._views.values())

    @property
    def state(self) -> str:
        """``idle``, ``loading`` or ``ready``; from any thread."""
        if self._loading is not None:
            return "loading"
        return "idle" if self._current is None else "ready"

    def names(self) -> tuple[str, ...]:
        """The ids of the client's models, loaded or loading; from any thread."""
        own = self._loading or self._current
        return () if own is None else tuple(own.target.model_ids)

    @property
    def target(self) -> tuple[LoadTarget, str] | None:
        """What the client has loaded, with its app config's digest."""
        return None if self._current is None else self._current.name

    def running_steps(self) -> list[JSONDict]:
        """The current steps of the client's models; see `LoadedModels.running_steps`."""
        return [] if self._current is None else self._current.models.running_steps()

    def _look(self) -> None:
        """Have a view of each model that is loaded; what the last one knew stays known."""
        for model in self._current.models if self._current is not None else ():
            known = self._views.get(model.model_id)
            if known is None or known.runtime is not model.runtime:
                self._views[model.model_id] = model.for_client(self._client, self.cache_salt, known)

    def get(self, model_id: str | None) -> LoadedModel:
        """The client's view of its model of this id, or of its only one; see `LoadedModels.get`."""
        if self._current is None:
            if self._loading is not None:
                return self._loading.models.get(model_id)
            raise ModelNotLoadedError.none_is_loaded()
        if not self._current.loaded:  # unloaded as nobody used it; its state is still known
            name = next(iter(self._views)) if model_id is None else model_id
            if name in self._views:
                return self._views[name]
        self._current.last_used = time.monotonic()
        self._look()
        return self._views[self._current.models.get(model_id).model_id]

    def holds(self, model: LoadedModel) -> bool:
        """Whether this very model is loaded."""
        self._look()
        mine = self._current is not None and self._current.loaded
        return mine and self._views.get(model.model_id) is model

    async def load(self, target: LoadTarget, app_config: AppConfig) -> None:
        """Load `target` for this client in place of what it has; what others have stays.

        Models that any client has loaded are not loaded again.

        Raises:
            LoadCancelledError: A newer load or unload of this client, or `cancel_load`, cancelled
                it.
        """
        await self._loads.run(partial(self._load, target, app_config))

    async def _load(self, target: LoadTarget, app_config: AppConfig) -> None:
        self._loading = wanted = self._shared.find(target, app_config)
        try:
            await wanted.up(self)
        finally:
            self._loading = None
        if wanted is not self._current:
            self._leave()
            wanted.holders.add(self)
            self._current = wanted
        self._look()

    def _leave(self) -> None:
        self._before_unload()
        before, self._current = self._current, None
        self._views.clear()
        if before is not None:
            before.holders.discard(self)

    async def check(self, target: LoadTarget, app_config: AppConfig) -> None:
        """Find, download and read `target`, as `load` would, and change nothing that is loaded."""
        models = self._shared.new_models()
        models.on_progress = self.on_progress
        await models.check(target, app_config)

    async def cancel_load(self) -> None:
        """Cancel this client's load; others that wait for the same models go on waiting."""

        async def nothing() -> None:
            pass

        if self._loads.running:
            with contextlib.suppress(LoadCancelledError):  # newer work has begun
                await self._loads.run(nothing)

    async def ensure(
        self, target: LoadTarget, app_config: AppConfig, *, resends: bool = False
    ) -> None:
        """Load `target` for this client unless it has it; see `LoadedModels.ensure`."""
        wanted = (target, app_config.digest)
        joined = self._joined
        if joined is None or joined[0] != wanted or joined[1].done():
            if self.target != wanted and resends and self._loads.running:
                await self._loads.idle()
                if self.target != wanted:
                    raise replaced_error()
            if self.target == wanted:
                await self.ensure_current()
                return
            task = asyncio.create_task(self.load(target, app_config))
            task.add_done_callback(lambda t: None if t.cancelled() else t.exception() and None)
            self._joined = joined = wanted, task
        try:
            # Shielded: if the request that began the load is cancelled, others still need it.
            await asyncio.shield(joined[1])
        except LoadCancelledError:
            if resends:
                raise replaced_error() from None
            raise

    async def ensure_current(self) -> None:
        """Load what the client has loaded again, if it was unloaded meanwhile."""
        if self._current is not None:
            await self._current.up(self)
            self._look()

    async def unload(self) -> None:
        """Unload all models of this client, and cancel its load; others keep theirs."""

        async def leave() -> None:
            self._leave()

        with contextlib.suppress(LoadCancelledError):  # a newer load does the same
            await self._loads.run(leave)
