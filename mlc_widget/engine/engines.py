"""The direct engines: models run in this process."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping
from typing import Any

from mlc_widget.api.engine_base import AsyncMLCEngineInterface, EngineBase, MLCEngineInterface
from mlc_widget.api.errors import EngineForkedError
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.logit_processor import LogitProcessorFactory
from mlc_widget.api.progress import InitProgressCallback
from mlc_widget.engine.core import DirectCore


def _end(core: DirectCore, home: HomeLoop) -> None:
    """Unload the models of an engine that nothing refers to any more."""
    with contextlib.suppress(EngineForkedError):  # a copy of the object is not the engine
        home.submit(core.terminate())


class _DirectEngine(EngineBase):
    """The common part of both direct engines."""

    def __init__(
        self,
        *,
        runtime: str = "auto",
        runtime_options: Mapping[str, Any] | None = None,
        logit_processors: Mapping[str, LogitProcessorFactory] | None = None,
        init_progress_callback: InitProgressCallback | None = None,
    ) -> None:
        core = DirectCore(
            runtime=runtime, runtime_options=runtime_options, logit_processors=logit_processors
        )
        home = HomeLoop.shared()
        super().__init__(core, home)
        self.set_init_progress_callback(init_progress_callback)
        self._finalizer = weakref.finalize(self, _end, core, home)
        self._finalizer.atexit = False


class AsyncMLCEngine(_DirectEngine, AsyncMLCEngineInterface):
    """Runs models in this process; every method is awaited.

    It may be used from any event loop, and from several.

    Args:
        runtime: ``tvm``, or ``auto`` for the best one that is installed.
        runtime_options: Options of the runtime, such as ``device`` and ``threads``.
        logit_processors: Factories of `LogitProcessor` objects, by model id.
        init_progress_callback: Called with an `InitProgressReport` as a load advances.
    """


class MLCEngine(_DirectEngine, MLCEngineInterface):
    """`AsyncMLCEngine`, blocking the calling thread."""
