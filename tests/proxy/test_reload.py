"""Loads in the worker: one at a time, the newest wins, and after failures the state is right."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mlc_widget import AsyncKernelMLCEngine, InitProgressReport, create_kernel_mlc_engine
from mlc_widget.api.errors import (
    BadRequestError,
    EngineDeadError,
    LoadCancelledError,
    ModelFormatError,
    ModelNotFoundError,
    ModelNotLoadedError,
)
from mlc_widget.proxy.remote_models import RemoteModels

from ..kinds import but_for_soak
from ..waiting import until

Make = Callable[..., Awaitable[AsyncKernelMLCEngine]]

HELLO = [{"role": "user", "content": "Hello!"}]


async def loading(engine: AsyncKernelMLCEngine) -> None:
    """Waits until a load has got as far as the runtime."""

    def phase() -> str | None:
        now = engine.link.snapshot
        return now.progress.phase if now.state == "loading" and now.progress else None

    await until(lambda: phase() == "load")


async def loaded(engine: AsyncKernelMLCEngine) -> list[str]:
    return [m.id for m in await engine.models.list()]


async def test_the_newest_reload_wins(
    kernel_engine: Make, tiny_model: Path, other_tiny_model: Path
) -> None:
    engine = await kernel_engine(load=False, load_s=0.5)
    loads = [asyncio.create_task(engine.reload(str(tiny_model)))]
    await loading(engine)
    loads.append(asyncio.create_task(engine.reload(str(tiny_model))))
    loads.append(asyncio.create_task(engine.reload(str(other_tiny_model))))
    outcomes = await asyncio.gather(*loads, return_exceptions=True)
    assert [type(o) for o in outcomes] == [LoadCancelledError, LoadCancelledError, type(None)]
    assert await loaded(engine) == [str(other_tiny_model)]
    assert engine.state == "ready"
    assert engine.model_id == str(other_tiny_model)


async def test_a_load_can_be_ended(kernel_engine: Make, tiny_model: Path) -> None:
    engine = await kernel_engine(load=False, load_hangs=True)
    for how in ("unload", "cancel", "cancel_load"):
        load = asyncio.create_task(engine.reload(str(tiny_model)))
        await loading(engine)
        with pytest.raises(ModelNotLoadedError, match="still loading"):
            await engine.chat.completions.create(messages=HELLO)
        if how == "cancel":
            load.cancel()
            with pytest.raises(asyncio.CancelledError):
                await load
        else:
            if how == "unload":
                await engine.unload()
            else:
                engine._core.call_soon(engine._core.cancel_load)
            with pytest.raises(LoadCancelledError):
                await load
        await until(lambda: engine.state == "idle")
        assert await loaded(engine) == []
        assert engine.model_id is None


async def test_a_cancelled_reload_does_not_end_a_newer_one(
    kernel_engine: Make, tiny_model: Path, other_tiny_model: Path
) -> None:
    engine = await kernel_engine(load=False, load_s=0.5)
    older = asyncio.create_task(engine.reload(str(tiny_model)))
    await loading(engine)
    newer = asyncio.create_task(engine.reload(str(other_tiny_model)))
    await asyncio.sleep(0)
    older.cancel()
    await newer
    with pytest.raises((asyncio.CancelledError, LoadCancelledError)):
        await older
    assert await loaded(engine) == [str(other_tiny_model)]


async def test_a_first_load_that_fails_leaves_the_worker_usable(
    kernel_engine: Make, tiny_model: Path, tmp_path: Path
) -> None:
    engine = await kernel_engine(load=False)
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        await engine.reload(str(tmp_path / "nowhere"))
    pid = engine.worker_pid
    assert engine.state == "idle"
    assert isinstance(engine.link.snapshot.error, ModelNotFoundError)
    assert await loaded(engine) == []
    with pytest.raises(ModelNotLoadedError):
        await engine.chat.completions.create(messages=HELLO)
    await engine.reload(str(tiny_model))
    assert (await engine.chat.completions.create(messages=HELLO)).model == str(tiny_model)
    assert engine.worker_pid == pid


MEMORY = {"load_needs": 60, "load_memory": 100}
KINDS = {
    "beside": {},
    "in-its-place": MEMORY,
    "in-a-fresh-worker": {"single_use": True},
}


async def answers(engine: AsyncKernelMLCEngine, model: Path) -> bool:
    response = await engine.chat.completions.create(messages=HELLO)
    return response.model == str(model) and engine.model_id == str(model)


@pytest.mark.parametrize("kind", but_for_soak(KINDS, "in-a-fresh-worker"))
async def test_the_working_model_stays_when_another_cannot_be_loaded(
    kernel_engine: Make, tiny_model: Path, other_tiny_model: Path, tmp_path: Path, kind: str
) -> None:
    """Whatever the reason: a wrong name, a broken file, a cancelled load, a worker's death."""
    gate = tmp_path / "gate"
    options = {"load_troubles": other_tiny_model.name, **KINDS[kind]}
    engine = await kernel_engine(load_waits_for=str(gate), load_fails="torn", **options)
    link = engine.link
    await engine.reload(str(tiny_model), {"context_window_size": 100})
    pid = engine.worker_pid

    with pytest.raises(ModelNotFoundError):
        await engine.reload([str(other_tiny_model), str(tmp_path / "nowhere")])
    assert engine.worker_pid == pid
    assert link.snapshot.state == "ready"
    assert link.snapshot.failed is not None
    assert "nowhere" in link.snapshot.failed.model_id
    assert await answers(engine, tiny_model)

    load = asyncio.create_task(engine.reload(str(other_tiny_model)))
    await loading(engine)
    assert link.snapshot.failed is None
    if kind == "beside":  # it answers while the other one loads
        response = await engine.chat.completions.create(messages=HELLO)
        assert response.model == str(tiny_model)
    asking = asyncio.create_task(engine.chat.completions.create(messages=HELLO))
    link.call_soon(link.cancel_load)
    with pytest.raises(LoadCancelledError):
        await load
    assert (await asking).model == str(tiny_model)
    assert await answers(engine, tiny_model)
    assert link.snapshot.failed is None

    gate.touch()
    with pytest.raises(ModelFormatError, match="torn"):
        await engine.reload(str(other_tiny_model))
    assert await answers(engine, tiny_model)
    assert isinstance(link.snapshot.failed and link.snapshot.failed.error, ModelFormatError)

    gate.unlink()
    load = asyncio.create_task(engine.reload(str(other_tiny_model)))
    await loading(engine)
    assert engine.worker_pid is not None
    os.kill(engine.worker_pid, signal.SIGKILL)
    with pytest.raises(EngineDeadError):
        await load
    assert await answers(engine, tiny_model)
    (model,) = await engine.models.list()
    assert model.context_window_size == 100  # type: ignore[attr-defined]

    await asyncio.wrap_future(link.submit(link.reload_last()))  # what "try again" does
    assert await answers(engine, tiny_model)


async def begin(engine: AsyncKernelMLCEngine, model: Path) -> None:
    """Begin a load as magics and widgets do, which do not await it."""
    engine.link.begin_reload([str(model)])


async def test_requests_behind_a_begun_load_are_answered_by_what_is_loaded_then(
    kernel_engine: Make, tiny_model: Path, other_tiny_model: Path, tmp_path: Path
) -> None:
    engine = await kernel_engine()
    for name, expected in ((tmp_path / "typo", tiny_model), (other_tiny_model, other_tiny_model)):
        await asyncio.wrap_future(engine.link.submit(begin(engine, name)))
        asking = [
            asyncio.create_task(engine.chat.completions.create(messages=HELLO)) for _ in range(3)
        ]
        assert {(await one).model for one in asking} == {str(expected)}


async def test_requests_go_on_while_models_replace_each_other(
    kernel_engine: Make, tiny_model: Path, other_tiny_model: Path
) -> None:
    engine = await kernel_engine(**MEMORY)
    ended = False

    async def ask() -> set[str]:
        models = set()
        while not ended:
            models.add((await engine.chat.completions.create(messages=HELLO)).model)
        return models

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    for i in range(6):
        wanted = (other_tiny_model, tiny_model)[i % 2]
        await engine.reload(str(wanted))
        assert await loaded(engine) == [str(wanted)]
    ended = True
    for one in asking:
        assert await one <= {str(tiny_model), str(other_tiny_model)}
    assert await loaded(engine) == [str(tiny_model)]


MALFORMED: list[tuple[list[str], list[dict[str, int]] | None]] = [
    ([], None), (["a", "a"], None), (["a"], [{}, {}]), (["a", ""], None),
]  # fmt: skip


async def test_a_malformed_reload_changes_nothing(kernel_engine: Make, tiny_model: Path) -> None:
    engine = await kernel_engine()
    for models, opts in MALFORMED:
        with pytest.raises(BadRequestError):
            await engine.reload(models, opts)
        assert engine.state == "ready", (models, opts)
        assert await loaded(engine) == [str(tiny_model)]
        await engine.chat.completions.create(messages=HELLO)


async def test_several_models_each_with_its_options(
    kernel_engine: Make, tiny_model: Path, other_tiny_model: Path
) -> None:
    engine = await kernel_engine(load=False)
    reports: list[InitProgressReport] = []
    engine.set_init_progress_callback(reports.append)
    await engine.reload(
        [str(tiny_model), str(other_tiny_model)], [None, {"context_window_size": 128}]
    )
    assert [r.progress for r in reports] == sorted(r.progress for r in reports)
    assert {r.model_id for r in reports} == {str(tiny_model), str(other_tiny_model)}
    windows = [m.context_window_size for m in await engine.models.list()]  # type: ignore[attr-defined]
    assert windows == [4096, 128]
    with pytest.raises(BadRequestError, match="several models are loaded"):
        await engine.chat.completions.create(messages=HELLO)
    for model in (tiny_model, other_tiny_model):
        answer = await engine.chat.completions.create(messages=HELLO, model=str(model))
        assert answer.model == str(model)
    with pytest.raises(ModelNotLoadedError, match="nobody"):
        await engine.chat.completions.create(messages=HELLO, model="nobody")


async def test_an_app_config_names_models(
    kernel_engine: Make, tiny_model: Path, other_tiny_model: Path
) -> None:
    engine = await kernel_engine(load=False)

    def config(model: Path, window: int) -> dict[str, object]:
        record = {"model_id": "mine", "model": str(model)}
        return {"model_list": [{**record, "overrides": {"context_window_size": window}}]}

    with pytest.raises(BadRequestError, match=r"model_list\[0\].model"):
        await engine.set_app_config({"model_list": [{"model_id": "mine"}]})
    await engine.set_app_config(config(tiny_model, 100))
    await engine.reload("mine")
    (model,) = await engine.models.list()
    assert (model.id, model.context_window_size) == ("mine", 100)  # type: ignore[attr-defined]
    # What is loaded stays as it was loaded, also in a worker that takes the place of this one.
    await engine.set_app_config(config(other_tiny_model, 200))
    await engine.chat.completions.create(messages=HELLO)
    assert engine.worker_pid is not None
    os.kill(engine.worker_pid, signal.SIGKILL)
    await until(lambda: engine.state == "dead")
    await engine.chat.completions.create(messages=HELLO)
    (model,) = await engine.models.list()
    assert model.context_window_size == 100  # type: ignore[attr-defined]
    await engine.reload("mine", {"context_window_size": 300})
    (model,) = await engine.models.list()
    assert model.context_window_size == 300  # type: ignore[attr-defined]


async def test_a_runtime_that_loads_once_gets_a_fresh_worker_each_time(
    kernel_engine: Make, tiny_model: Path, other_tiny_model: Path
) -> None:
    engine = await kernel_engine(single_use=True)
    pids = [engine.worker_pid]
    await engine.reload(str(other_tiny_model))
    pids.append(engine.worker_pid)
    assert (await engine.chat.completions.create(messages=HELLO)).model == str(other_tiny_model)
    await engine.unload()
    assert (engine.worker_pid, engine.state) == (None, "idle")
    await engine.reload(str(tiny_model))
    assert await loaded(engine) == [str(tiny_model)]
    pids.append(engine.worker_pid)
    assert len(set(pids)) == 3


async def test_progress_does_not_go_back_in_a_fresh_worker(
    kernel_engine: Make, other_tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much the old worker had reported before it said that it can load nothing more."""
    load_into = RemoteModels._load_into
    late = InitProgressReport(0.5, 2.0, "Reading the model", model_id=str(other_tiny_model))

    async def slowly(models: RemoteModels, *args: Any) -> None:
        try:
            await load_into(models, *args)
        except EngineDeadError:
            models._progress(late)
            raise

    engine = await kernel_engine(single_use=True)
    monkeypatch.setattr(RemoteModels, "_load_into", slowly)
    reports: list[InitProgressReport] = []
    engine.set_init_progress_callback(reports.append)
    await engine.reload(str(other_tiny_model))
    assert late in reports
    for values in ([r.progress for r in reports], [r.time_elapsed for r in reports]):
        assert values == sorted(values)
    assert reports[-1].progress == 1
    seen = len(reports)
    await engine.unload()
    await engine.reload(str(other_tiny_model))
    assert reports[seen].progress < 0.5  # another load begins at its beginning


async def test_two_engines_made_at_once_both_answer(
    tiny_model: Path, other_tiny_model: Path
) -> None:
    models = [str(tiny_model), str(other_tiny_model)]
    engines = await asyncio.gather(
        *(create_kernel_mlc_engine(m, runtime="scripted", show_progress=False) for m in models)
    )
    try:
        create = [engine.chat.completions.create for engine in engines]
        answers = await asyncio.gather(*(c(messages=HELLO) for c in create))
        assert [a.model for a in answers] == models
        assert {a.choices[0].message.content for a in answers} == {"Hello from the script."}
        assert len({engine.worker_pid for engine in engines}) == 2
    finally:
        for engine in engines:
            await engine.terminate()
