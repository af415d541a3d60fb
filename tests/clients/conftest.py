"""Engines for OpenAI's clients: both kinds of core, shared by a module's tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlc_widget import AsyncKernelMLCEngine, AsyncMLCEngine
from mlc_widget.api.async_interface import AsyncMLCEngineInterface


@pytest.fixture(scope="module", params=["direct", "kernel"])
def scripted(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[AsyncMLCEngineInterface]:
    """An engine on the scripted runtime with the model ``m``.

    A module says what it is to answer in ``SCRIPT``.
    """
    cls = AsyncMLCEngine if request.param == "direct" else AsyncKernelMLCEngine
    script = getattr(request.module, "SCRIPT", {})
    engine: AsyncMLCEngineInterface = cls(runtime="scripted", runtime_options=script)
    config = {"model_list": [{"model_id": "m", "model": str(tiny_model)}]}
    asyncio.run(engine.set_app_config(config))
    asyncio.run(engine.reload("m"))
    yield engine
    asyncio.run(engine.terminate())
