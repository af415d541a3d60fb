"""A direct engine that is dropped unloads its model."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path

from mlc_widget import AsyncMLCEngine


async def test_an_engine_that_is_dropped_unloads(tiny_model: Path) -> None:
    engine = AsyncMLCEngine(runtime="scripted")
    await engine.reload(str(tiny_model))
    (model,) = engine._core._models
    runtime = weakref.ref(model.runtime)
    del engine, model
    gc.collect()
    deadline = asyncio.get_running_loop().time() + 60
    while runtime() is not None:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
        gc.collect()
