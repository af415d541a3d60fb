"""The direct engines: models run in this process."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping
from typing import ClassVar, Never, Unpack

from mlc_widget.api.async_interface import AsyncMLCEngineInterface
from mlc_widget.api.blocking_interface import MLCEngineInterface
from mlc_widget.api.engine_base import EngineBase
from mlc_widget.api.engine_options import (
    ENGINE_DEFAULTS,
    EngineOptions,
    complete_options,
    runtime_options_of,
    takes_options,
)
from mlc_widget.api.errors import EngineForkedError
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.logit_processor import LogitProcessorFactory
from mlc_widget.engine.core import DirectCore


def _end(core: DirectCore, home: HomeLoop) -> None:
    """Unload the models of an engine that nothing refers to any more."""
    with contextlib.suppress(EngineForkedError):  # this is a copy in a forked process
        home.submit(core.terminate(dropped=True))


class _DirectEngine(EngineBase):
    """The common part of both direct engines."""

    _core: DirectCore
    _factory: ClassVar[str]

    @takes_options(EngineOptions, ENGINE_DEFAULTS)
    def __init__(
        self,
        *models: Never,
        logit_processors: Mapping[str, LogitProcessorFactory] | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        chosen = complete_options(type(self), self._factory, models, options, ENGINE_DEFAULTS)
        core = DirectCore(
            runtime=chosen["runtime"],
            runtime_options=runtime_options_of(chosen),
            logit_processors=logit_processors,
        )
        home = HomeLoop.shared()
        super().__init__(core, home)
        self.set_init_progress_callback(chosen["init_progress_callback"])
        self._finalizer = weakref.finalize(self, _end, core, home)
        self._finalizer.atexit = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._core.describe()}>"


class AsyncMLCEngine(_DirectEngine, AsyncMLCEngineInterface):
    """Runs models in this process; every method is awaited.

    It may be used from any event loop, and from several at once.

    Args:
        logit_processors: Factories of `LogitProcessor` objects, by model id.
        **options: See `EngineOptions`.

    Raises:
        TypeError: An option does not exist, or a model was given: `create_mlc_engine` takes one.
        BadRequestError: An option is invalid.
    """

    _factory = "await create_mlc_engine"


class MLCEngine(_DirectEngine, MLCEngineInterface):
    """Like `AsyncMLCEngine`, but its methods block the calling thread; see `mlc_engine`."""

    _factory = "mlc_engine"
