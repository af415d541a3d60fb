"""mlc_llm's thread dies, hangs or crashes the process; and the end of the process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlc_widget import AsyncKernelMLCEngine
from mlc_widget.api.errors import EngineDeadError, EngineTerminatedError

from ....kinds import but_for_soak
from ....waiting import until
from .conftest import EngineFactory, Package

DEATHS: dict[str, tuple[dict[str, Any], str]] = {
    "thread dies": ({"step_dies_after": 20}, "told to die"),
    "thread hangs": ({"step_hangs_after": 20}, "has not answered"),
    "crash": ({"crashes_after": 20}, "SIGSEGV"),
}


async def drain(engine: AsyncKernelMLCEngine) -> str:
    chunks = await engine.completions.create(
        prompt="Hello", stream=True, max_tokens=400, extra_body={"ignore_eos": True}
    )
    return "".join([c.choices[0].text async for c in chunks])


@pytest.mark.parametrize("death", but_for_soak(DEATHS, "thread dies"))
async def test_a_dead_engine_is_found_and_replaced(
    death: str, standin: Package, make_engine: EngineFactory, tmp_path: Path
) -> None:
    trouble, reason = DEATHS[death]
    engine = await make_engine(
        standin,
        options={"stall_timeout": 2.0},
        trouble={**trouble, "once": str(tmp_path / "once")},
        recovery="error",
    )
    worker = engine._core.worker_pid
    with pytest.raises(EngineDeadError, match=reason):
        await asyncio.wait_for(drain(engine), 60)
    assert await drain(engine)  # by a fresh worker, which loads the model again
    assert engine._core.worker_pid != worker


async def test_an_engine_that_dies_idle_is_found_too(
    standin: Package, make_engine: EngineFactory
) -> None:
    engine = await make_engine(standin, trouble={"step_dies_after": 3})
    worker = psutil.Process(engine._core.worker_pid)
    ask = asyncio.ensure_future(engine.completions.create(prompt="Hello", max_tokens=400))
    await asyncio.to_thread(worker.wait, 60)
    ask.cancel()
    await asyncio.wait({ask})
    assert not worker.is_running()
    await until(lambda: engine.worker_pid != worker.pid)


async def test_a_hang_is_reported_long_before_it_counts_as_a_death(
    standin: Package, make_engine: EngineFactory
) -> None:
    engine = await make_engine(
        standin,
        options={"stall_timeout": 600.0},
        trouble={"step_hangs_after": 20},
        hang_timeout=0.5,
    )
    draining = asyncio.create_task(drain(engine))
    await until(lambda: engine.hang is not None and engine.hang.part == "engine")
    await engine.terminate()
    with pytest.raises(EngineTerminatedError):
        await draining


async def test_the_worker_ends_with_a_stream_open(
    standin: Package, make_engine: EngineFactory
) -> None:
    engine = await make_engine(standin, trouble={"step_s": 0.01})
    worker = psutil.Process(engine._core.worker_pid)
    chunks = await engine.completions.create(prompt="Hello", stream=True, max_tokens=2000)
    await anext(chunks)
    await engine.terminate()
    assert not worker.is_running()
