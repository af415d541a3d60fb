"""A direct engine that is dropped unloads its model."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

from mlc_widget import AsyncMLCEngine

from ..waiting import until


async def test_an_engine_that_is_dropped_unloads(tiny_model: Path) -> None:
    engine = AsyncMLCEngine(runtime="scripted")
    await engine.reload(str(tiny_model))
    (model,) = engine._core._models
    runtime = weakref.ref(model.runtime)
    del engine, model
    gc.collect()

    def gone() -> bool:
        gc.collect()
        return runtime() is None

    await until(gone)
