"""A load on the tvm runtime can be cancelled in each of its phases, and the state stays right."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mlc_widget import AsyncKernelMLCEngine
from mlc_widget.api.errors import LoadCancelledError

from ..kinds import but_for_soak
from ..waiting import until

pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")

Make = Callable[..., Awaitable[AsyncKernelMLCEngine]]

HELLO = [{"role": "user", "content": "Hello!"}]


@pytest.mark.parametrize("newer", but_for_soak(["unload", "reload"], "reload"))
async def test_a_load_is_ended_while_it_compiles(
    kernel_engine: Make, tiny_model: Path, other_tiny_model: Path, tmp_path: Path, newer: str
) -> None:
    options = {"cache_dir": str(tmp_path)}  # empty: the code must be compiled
    engine = await kernel_engine(load=False, runtime="tvm", runtime_options=options)
    compiling = asyncio.Event()
    phases: set[str] = set()

    def on_progress(report: object) -> None:
        phases.add(report.phase)  # type: ignore[attr-defined]
        if report.phase == "compile":  # type: ignore[attr-defined]
            compiling.set()

    engine.set_init_progress_callback(on_progress)
    load = asyncio.create_task(engine.reload(str(tiny_model)))
    await compiling.wait()
    if newer == "unload":
        await engine.unload()
        assert engine.state == "idle"
        assert await engine.models.list() == []
        assert "warm up" not in phases
        with pytest.raises(LoadCancelledError):
            await load
        return
    await engine.reload(str(other_tiny_model))
    with pytest.raises(LoadCancelledError):
        await load
    assert [m.id for m in await engine.models.list()] == [str(other_tiny_model)]
    answer = await engine.chat.completions.create(messages=HELLO, max_tokens=2)
    assert answer.model == str(other_tiny_model)


async def test_loads_ended_at_any_moment_leave_the_newest(
    kernel_engine: Make, tiny_model: Path, other_tiny_model: Path
) -> None:
    engine = await kernel_engine(load=False, runtime="tvm")
    models = [str(tiny_model), str(other_tiny_model)]
    await engine.reload(models[0])
    reports: list[object] = []
    engine.set_init_progress_callback(reports.append)
    loads = []
    for i in range(8):  # each ends the one before after some more of its reports
        load = asyncio.create_task(engine.reload(models[i % 2]))
        loads.append(load)
        reports.clear()
        await until(lambda load=load, i=i: load.done() or len(reports) >= i)
    outcomes = await asyncio.gather(*loads, return_exceptions=True)
    assert outcomes[-1] is None
    assert {type(o) for o in outcomes} <= {LoadCancelledError, type(None)}
    assert [m.id for m in await engine.models.list()] == [models[1]]
    assert engine.state == "ready"
    answer = await engine.chat.completions.create(messages=HELLO, max_tokens=2)
    assert answer.model == models[1]
