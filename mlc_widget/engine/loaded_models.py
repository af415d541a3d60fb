"""The loaded models: loading, unloading and finding them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from mlc_widget.api.app_config import AppConfig
from mlc_widget.api.errors import (
    BadRequestError,
    EngineDeadError,
    LoadCancelledError,
    ModelNotLoadedError,
)
from mlc_widget.api.load_request import LoadTarget
from mlc_widget.api.logit_processor import LogitProcessorFactory
from mlc_widget.api.progress import InitProgressCallback, InitProgressReport
from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.load_monitor import LoadMonitor
from mlc_widget.engine.load_sequence import LoadSequence, uncancelled
from mlc_widget.engine.logit_processors import find_logit_processor
from mlc_widget.engine.model import LoadedModel, load_model
from mlc_widget.engine.runtimes.base import ModelRuntime
from mlc_widget.engine.runtimes.registry import create_runtime
from mlc_widget.engine.system.imports import memory_error, ran_out_of_memory
from mlc_widget.engine.system.memory import give_back_memory

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
        self._joined: tuple[_Target, asyncio.Task[None]] | None = None

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
            raise ModelNotLoadedError("No model is loaded: call reload(model_id) first.")
        if model_id is None:
            if len(self._models) > 1:
                raise BadRequestError(
                    f"model: several are loaded, name one of {', '.join(self._models)}.",
                    param="model",
                )
            return next(iter(self._models.values()))
        try:
            return self._models[model_id]
        except KeyError:
            raise ModelNotLoadedError(
                f"model = {model_id!r}: not loaded; loaded: {', '.join(self._models)}.",
                param="model",
            ) from None

    async def load(self, target: LoadTarget, app_config: AppConfig) -> None:
        """Unload all models and load `target`; after a failure nothing is loaded.

        Raises:
            LoadCancelledError: A newer load or unload cancelled it.
            EngineDeadError: This process can load no other model (code ``fresh_process_needed``);
                nothing has changed.
        """
        if self.fresh_process_needed:
            raise EngineDeadError(
                f"This process cannot load {', '.join(target.model_ids)}: its runtime loads only "
                "one model per process. Load it in a new process.",
                code="fresh_process_needed",
            )
        await self._loads.run(partial(self._load_all, target, app_config))

    async def ensure(self, target: LoadTarget, app_config: AppConfig) -> None:
        """Load `target` unless it is loaded; requests that need the same models share a load."""
        wanted = (target, app_config.digest)
        if self._loaded == wanted:
            return
        if self._joined is None or self._joined[0] != wanted or self._joined[1].done():
            task = asyncio.create_task(self.load(target, app_config))
            task.add_done_callback(lambda t: None if t.cancelled() else t.exception() and None)
            self._joined = (wanted, task)
        # Shielded: if the request that began the load is cancelled, others still need it.
        await asyncio.shield(self._joined[1])

    async def unload(self) -> None:
        """Unload all models, and cancel a running load."""
        with contextlib.suppress(LoadCancelledError):  # a newer load unloads everything, too
            await self._loads.run(self._unload_all)

    async def _load_all(self, target: LoadTarget, app_config: AppConfig) -> None:
        started = time.monotonic()
        await self._unload_all()
        self._loading = (target, app_config.digest)
        try:
            count = len(target.model_ids)
            for i, (model_id, opts) in enumerate(
                zip(target.model_ids, target.chat_opts, strict=True)
            ):
                part = (i / count, (i + 1) / count)
                monitor = LoadMonitor(model_id, self._emit, started=started, part=part)
                runtime = self._make_runtime(target)
                self._models[model_id] = await self._load_one(
                    model_id, opts, app_config, runtime, monitor
                )
                monitor("warm up", 1.0, f"{model_id} is ready")
            await asyncio.sleep(0)  # send the last report before the load's answer
        except BaseException:
            await self._unload_all()
            raise
        else:
            self._loaded = self._loading
        finally:
            self._loading = None

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
        self,
        model_id: str,
        opts: Mapping[str, Any],
        app_config: AppConfig,
        runtime: ModelRuntime,
        monitor: LoadMonitor,
    ) -> LoadedModel:
        record = app_config.models.get(model_id)
        try:
            return await load_model(
                model_id,
                opts,
                runtime,
                monitor,
                location=record.model if record else None,
                overrides=record.overrides if record else None,
                logit_processor=find_logit_processor(model_id, self._logit_processors),
            )
        except BaseException as error:
            await uncancelled(runtime.unload())
            if ran_out_of_memory(error):
                raise memory_error(f"Memory ran out while {model_id} was loaded", error) from error
            raise
        finally:
            self.fresh_process_needed |= runtime.capabilities.fresh_process_needed

    async def _unload_all(self) -> None:
        models, self._models = self._models, {}
        self._loaded = None
        self._before_unload()
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
