"""The loaded models: loading, unloading and finding them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from mlc_widget.api.app_config import AppConfig
from mlc_widget.api.errors import (
    BadRequestError,
    EngineDeadError,
    LoadCancelledError,
    MLCEngineError,
    ModelNotLoadedError,
)
from mlc_widget.api.load_request import LoadTarget
from mlc_widget.api.logit_processor import LogitProcessorFactory
from mlc_widget.api.progress import InitProgressCallback, InitProgressReport
from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.load_monitor import LoadMonitor, LoadScale
from mlc_widget.engine.load_sequence import LoadSequence, uncancelled
from mlc_widget.engine.loaded_before import LoadedBefore
from mlc_widget.engine.logit_processors import find_logit_processor
from mlc_widget.engine.model import LoadedModel, PreparedModel, prepare
from mlc_widget.engine.runtimes.base import DeviceUsage, ModelRuntime
from mlc_widget.engine.runtimes.registry import create_runtime
from mlc_widget.engine.system.imports import memory_error, ran_out_of_memory
from mlc_widget.engine.system.memory import give_back_memory

logger = logging.getLogger(__name__)

_Target = tuple[LoadTarget, str]  # with the app config's digest


class LoadedModels:
    """Models by id, in the order of loading, each in a runtime of its own.

    Args:
        runtime: The runtime's name, or ``auto``.
        runtime_options: Options of each runtime.
        logit_processors: Factories by model id.
        before_unload: Called before models are unloaded.
    """

    def __init__(
        self,
        runtime: str,
        runtime_options: Mapping[str, Any] | None,
        logit_processors: Mapping[str, LogitProcessorFactory] | None,
        before_unload: Callable[[], None],
    ) -> None:
        self.on_progress: InitProgressCallback | None = None
        self.on_dead: Callable[[EngineDeadError], None] | None = None
        self.fresh_process_needed = False
        """Whether this process can load nothing more; see `RuntimeCapabilities`."""
        self._runtime = runtime
        self._runtime_options = dict(runtime_options or {})
        self._logit_processors = logit_processors
        self._before_unload = before_unload
        self._models: dict[str, LoadedModel] = {}
        self._leaving: LoadedModel | None = None
        self._loads = LoadSequence()
        self._loaded: _Target | None = None
        self._loading: _Target | None = None
        self._before: _Target | None = None  # what the load that is running replaces
        self._aside: tuple[_Target, list[PreparedModel]] | None = None
        self._taking_back = False  # whether that is being loaded again
        self._joined: tuple[_Target, asyncio.Task[None]] | None = None
        self._failure = ""  # why the last load failed

    def __iter__(self) -> Iterator[LoadedModel]:
        return iter(self._models.values())

    @property
    def state(self) -> str:
        """``idle``, ``loading`` or ``ready``; from any thread."""
        if self._loading is not None:
            return "loading"
        return "idle" if self._loaded is None else "ready"

    def names(self) -> tuple[str, ...]:
        """The ids of the models that are loaded or loading; from any thread."""
        target = self._loading or self._loaded
        return () if target is None else tuple(target[0].model_ids)

    def running_steps(self) -> list[JSONDict]:
        """The current steps of all models, including one that is being unloaded.

        Each is a `RunningStep` with its ``model``; a model without a step, or whose runtime
        does not report it, is left out.
        """
        models = [*self, *([] if self._leaving is None else [self._leaving])]
        steps = [(model.model_id, model.runtime.running_step()) for model in models]
        steps += [
            (f"{model.model_id} (tokenizer)", model.encoder.running_step()) for model in models
        ]
        return [{"model": name, **asdict(step)} for name, step in steps if step is not None]

    def get(self, model_id: str | None) -> LoadedModel:
        """The model of this id, or the only one.

        Raises:
            ModelNotLoadedError: The model is not loaded, or no model is.
            BadRequestError: Several models are loaded, and none is named.
        """
        if not self._models:
            if self._loading is not None:
                raise ModelNotLoadedError(
                    f"{', '.join(self._loading[0].model_ids)} is still loading: await reload."
                )
            raise ModelNotLoadedError.none_is_loaded(self._failure)
        if model_id is None:
            if len(self._models) > 1:
                raise BadRequestError.several_are_loaded(self._models)
            return next(iter(self._models.values()))
        try:
            return self._models[model_id]
        except KeyError:
            raise ModelNotLoadedError(
                f"model = {model_id!r}: not loaded; loaded: {', '.join(self._models)}.",
                param="model",
            ) from None

    async def load(self, target: LoadTarget, app_config: AppConfig) -> None:
        """Load `target` in place of what is loaded.

        What is loaded stays, and answers, until all of `target` is ready. It is unloaded earlier
        only if there is not enough memory for both, once nothing else about `target` can be
        refused; it is loaded again if the load fails then.

        Raises:
            LoadCancelledError: A newer load or unload, or `cancel_load`, cancelled it.
            EngineDeadError: This process can load no other model (code ``fresh_process_needed``);
                nothing has changed.
        """
        if self.fresh_process_needed:
            await self.check(target, app_config)
            raise EngineDeadError(
                f"This process cannot load {', '.join(target.model_ids)}: its runtime loads only "
                "one model per process. Load it in a new process.",
                code="fresh_process_needed",
            )
        await self._loads.run(partial(self._load_all, target, app_config))

    async def check(self, target: LoadTarget, app_config: AppConfig) -> None:
        """Find, download and read `target`, as `load` would, and change nothing that is loaded.

        Raises:
            MLCEngineError: Why it cannot be loaded, as far as that shows without its weights.
        """

        async def work() -> None:
            await self._prepare_all(
                target, app_config, LoadScale(len(target.model_ids), self._emit)
            )

        await self._loads.run(work)

    async def cancel_load(self) -> None:
        """Cancel a running load, and wait until what was loaded before is there again."""
        if self._taking_back:
            await self._loads.idle()
        elif self._loads.running:
            with contextlib.suppress(LoadCancelledError):  # newer work has begun
                await self._loads.run(self._take_back)

    async def ensure(
        self, target: LoadTarget, app_config: AppConfig, *, resends: bool = False
    ) -> None:
        """Load `target` unless it is loaded; requests that need the same models share a load.

        Args:
            target: The models.
            app_config: Defines their names.
            resends: Whether the client sends the request again if a load that is running when it
                comes replaces its models, so that the request does not undo the load.

        Raises:
            ModelNotLoadedError: Its models were replaced (code ``model_replaced``).
        """
        wanted = (target, app_config.digest)
        if self._loaded == wanted:
            return
        aside = None if self._aside is None else self._aside[0]
        behind = resends and self._loads.running and self._shared_load(wanted) is None
        # What is wanted stepped aside, or was just replaced; or the request was sent before a load.
        if wanted in (self._before, aside) or behind:
            await self._loads.idle()
            if self._loaded == wanted:
                return
            if resends:
                raise replaced_error()
        task = self._shared_load(wanted)
        if task is None:
            task = asyncio.create_task(self.load(target, app_config))
            task.add_done_callback(lambda t: None if t.cancelled() else t.exception() and None)
            self._joined = (wanted, task)
        try:
            # Shielded: if the request that began the load is cancelled, others still need it.
            await asyncio.shield(task)
        except LoadCancelledError:
            if resends:
                raise replaced_error() from None
            raise

    async def ensure_current(self) -> None:
        """Nothing: what is loaded stays loaded; see `ClientModels.ensure_current`."""

    def _shared_load(self, wanted: _Target) -> asyncio.Task[None] | None:
        """The load of these models that a request has begun and that is running, if any."""
        if self._joined is None or self._joined[0] != wanted or self._joined[1].done():
            return None
        return self._joined[1]

    def holds(self, model: LoadedModel) -> bool:
        """Whether this very model is loaded."""
        return self._models.get(model.model_id) is model

    @property
    def target(self) -> tuple[LoadTarget, str] | None:
        """What is loaded, or has stepped aside for a load, with its app config's digest."""
        return self._aside[0] if self._aside is not None else self._loaded

    async def unload(self) -> None:
        """Unload all models, and cancel a running load."""
        with contextlib.suppress(LoadCancelledError):  # a newer load unloads everything, too
            await self._loads.run(self._unload)

    async def _load_all(self, target: LoadTarget, app_config: AppConfig) -> None:
        self._loading = (target, app_config.digest)
        self._before = self.target
        self._failure = ""
        try:
            await self._replace_by(target, app_config)
        except MLCEngineError as error:
            self._failure = error.message
            raise
        finally:
            self._before = None

    async def _replace_by(self, target: LoadTarget, app_config: AppConfig) -> None:
        replaced = LoadedBefore(await self._usages(), self._step_aside)
        loaded: dict[str, LoadedModel] = {}
        try:
            scale = LoadScale(len(target.model_ids), self._emit)
            prepared = await self._prepare_all(target, app_config, scale)
            for i, model in enumerate(prepared):
                model_id, monitor = model.source.model_id, scale.loading(i, model.source.model_id)
                runtime = self._make_runtime(target)
                runtime.replaces = replaced
                loaded[model_id] = one = await self._load_one(model, runtime, monitor)
                monitor("warm up", 1.0, f"{model_id} is ready", warning=one.warning)
            await asyncio.sleep(0)  # send the last report before the load's answer
        except BaseException:
            await uncancelled(self._give_up(loaded, replaced))
            raise
        finally:
            self._loading = None
        before, self._models = self._models, loaded
        self._loaded, self._aside = (target, app_config.digest), None
        self._before_unload()
        await uncancelled(self._unload_models(before))

    async def _prepare_all(
        self, target: LoadTarget, app_config: AppConfig, scale: LoadScale
    ) -> list[PreparedModel]:
        """Everything that can be refused without reading weights is refused here."""
        self._make_runtime(target)
        prepared = []
        for i, (model_id, opts) in enumerate(zip(target.model_ids, target.chat_opts, strict=True)):
            record = app_config.models.get(model_id)
            with _readable(model_id):
                one = await prepare(
                    model_id,
                    opts,
                    scale.preparing(i, model_id),
                    location=record.model if record else None,
                    overrides=record.overrides if record else None,
                    logit_processor=find_logit_processor(model_id, self._logit_processors),
                )
            prepared.append(one)
        return prepared

    async def _usages(self) -> list[DeviceUsage]:
        """What the loaded models take of their devices."""
        usages = []
        for model in self:
            with contextlib.suppress(MLCEngineError):  # one whose thread has died
                usages.append(await model.runtime.device_usage())
        return usages

    async def _step_aside(self) -> None:
        """Unload all models while others load, which need their memory."""
        if self._loaded is not None:
            self._aside = self._loaded, [PreparedModel.of(model) for model in self]
        await self._unload(keep_aside=True)

    async def _give_up(self, loaded: dict[str, LoadedModel], replaced: LoadedBefore) -> None:
        """After a failed load, free what it had loaded, and restore what it had unloaded."""
        await replaced.close()
        await self._unload_models(loaded)
        if not self._loads.superseded:  # else the next one restores it if it fails
            await self._take_back()

    async def _take_back(self) -> None:
        """Load again what has stepped aside, if anything has."""
        if self._aside is None:
            return
        self._taking_back = True
        was, again = self._aside
        scale = LoadScale(len(again), self._emit)
        models: dict[str, LoadedModel] = {}
        try:
            for i, model in enumerate(again):
                model_id = model.source.model_id
                runtime = self._make_runtime(was[0])
                models[model_id] = await self._load_one(model, runtime, scale.loading(i, model_id))
        except MLCEngineError as error:
            logger.warning("What was loaded before could not be loaded again: %s", error)
            self._aside = None
            await self._unload_models(models)
        except BaseException:  # what cancelled this takes it back if need be
            await uncancelled(self._unload_models(models))
            raise
        else:
            self._models, self._loaded, self._aside = models, was, None
        finally:
            self._taking_back = False

    def _make_runtime(self, target: LoadTarget) -> ModelRuntime:
        runtime = create_runtime(self._runtime, self._runtime_options)
        limit = runtime.capabilities.models_per_process
        if limit is not None and len(target.model_ids) > limit:
            raise BadRequestError(
                f"model_id = {list(target.model_ids)!r}: the {runtime.name} runtime can load "
                f"{limit} per process; make an engine for each model.",
                param="model_id",
            )
        runtime.on_dead = self._died
        return runtime

    def _died(self, error: EngineDeadError) -> None:
        if self.on_dead is not None:
            self.on_dead(error)

    async def _load_one(
        self, model: PreparedModel, runtime: ModelRuntime, monitor: LoadMonitor
    ) -> LoadedModel:
        try:
            with _readable(model.source.model_id):
                return await model.load(runtime, monitor)
        except BaseException:
            await uncancelled(runtime.unload())
            raise
        finally:
            self.fresh_process_needed |= runtime.capabilities.fresh_process_needed

    async def _unload(self, *, keep_aside: bool = False) -> None:
        models, self._models = self._models, {}
        self._loaded = None
        if not keep_aside:
            self._aside, self._failure = None, ""
        self._before_unload()
        await self._unload_models(models)

    async def _unload_models(self, models: dict[str, LoadedModel]) -> None:
        while models:
            _, model = models.popitem()
            self._leaving = model
            try:
                await uncancelled(model.runtime.unload())
            finally:
                self._leaving = None
            del model
            # The runtime has given back its memory, but tokenizer and template are freed only now.
            await uncancelled(asyncio.to_thread(give_back_memory))

    def _emit(self, report: InitProgressReport) -> None:
        if self.on_progress is not None:
            self.on_progress(report)


def replaced_error() -> ModelNotLoadedError:
    """For a request whose model has gone; a client that knows which one came may send it again."""
    return ModelNotLoadedError(
        "The model was unloaded before the request began.", code="model_replaced"
    )


@contextlib.contextmanager
def _readable(model_id: str) -> Iterator[None]:
    """Turn the ways in which Python and the system say that memory ran out into one error."""
    try:
        yield
    except BaseException as error:
        if ran_out_of_memory(error):
            raise memory_error(f"Memory ran out while {model_id} was loaded", error) from error
        raise
