"""The models that an engine has loaded, on the scripted runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.api.app_config import AppConfig
from mlc_widget.api.errors import (
    BadRequestError,
    EngineDeadError,
    InsufficientMemoryError,
    LoadCancelledError,
    ModelFormatError,
    ModelNotFoundError,
    ModelNotLoadedError,
)
from mlc_widget.api.load_request import LoadTarget
from mlc_widget.api.progress import InitProgressReport
from mlc_widget.engine.loaded_models import LoadedModels
from mlc_widget.engine.runtimes.scripted import ScriptedRuntime

from ..waiting import until

NONE = AppConfig()


def target(*models: Path | str, **chat_opts: Any) -> LoadTarget:
    return LoadTarget.read([str(m) for m in models], [chat_opts or None] * len(models))


class Models(LoadedModels):
    """Counts how often models were about to go, and keeps the reports."""

    def __init__(self, **script: Any) -> None:
        self.goings = 0
        self.reports: list[InitProgressReport] = []
        super().__init__("scripted", script, None, self._going)
        self.on_progress = self.reports.append

    def _going(self) -> None:
        self.goings += 1

    @property
    def names(self) -> list[str]:
        return [Path(model.model_id).name for model in self]


@pytest.fixture
async def models() -> AsyncIterator[Models]:
    made = Models()
    async with asyncio.timeout(60):
        yield made
        await made.unload()


async def test_models_are_found_by_id_and_the_only_one_without(
    models: Models, tiny_model: Path, other_tiny_model: Path
) -> None:
    with pytest.raises(ModelNotLoadedError, match=r"No model is loaded"):
        models.get(None)
    with pytest.raises(ModelNotFoundError):
        await models.load(target("no_such_model"), NONE)
    with pytest.raises(ModelNotLoadedError, match=r"call reload.*no_such_model"):
        models.get(None)
    await models.load(target(tiny_model), NONE)
    assert models.get(None) is models.get(str(tiny_model))
    with pytest.raises(ModelNotLoadedError, match="not loaded; loaded: ") as caught:
        models.get("another")
    assert caught.value.param == "model"
    await models.load(target(tiny_model, other_tiny_model), NONE)
    assert models.names == [tiny_model.name, other_tiny_model.name]
    with pytest.raises(BadRequestError, match="several models are loaded"):
        models.get(None)


async def test_what_is_expected_is_loaded_only_where_it_differs(
    models: Models, tiny_model: Path, other_tiny_model: Path
) -> None:
    async def loaded_anew(wanted: LoadTarget, config: AppConfig = NONE) -> bool:
        before = list(models)
        await models.ensure(wanted, config)
        return list(models) != before

    assert await loaded_anew(target(tiny_model))
    assert not await loaded_anew(target(tiny_model))
    assert await loaded_anew(target(tiny_model, context_window_size=100))
    assert await loaded_anew(target(tiny_model))
    assert await loaded_anew(target(tiny_model, other_tiny_model))
    assert await loaded_anew(target(other_tiny_model, tiny_model))
    config = AppConfig.read({"model_list": [{"model_id": "mine", "model": str(tiny_model)}]})
    assert await loaded_anew(target("mine"), config)
    assert not await loaded_anew(target("mine"), config)


async def test_all_who_expect_the_same_wait_for_one_load(tiny_model: Path) -> None:
    models = Models(load_s=0.05)
    asking = [asyncio.create_task(models.ensure(target(tiny_model), NONE)) for _ in range(4)]
    await until(lambda: models.reports)
    with pytest.raises(ModelNotLoadedError, match="is still loading"):
        models.get(None)
    asking[0].cancel()  # who began it may go
    await asyncio.wait(asking)
    assert models.names == [tiny_model.name]
    assert models.goings == 1
    await models.unload()


async def test_a_first_load_that_fails_leaves_nothing_and_is_tried_again(
    models: Models, tiny_model: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        with pytest.raises(ModelNotFoundError):
            await models.ensure(target(tiny_model, tmp_path / "gone"), NONE)
        assert list(models) == []
        assert models.state == "idle"
    await models.ensure(target(tiny_model), NONE)
    assert models.names == [tiny_model.name]


BIG = {"load_needs": 60, "load_memory": 100}
SMALL = {"load_needs": 30, "load_memory": 100}


@pytest.mark.parametrize("memory", [SMALL, BIG], ids=["both-fit", "one-fits"])
@pytest.mark.parametrize(
    ("script", "error"),
    [
        ({"load_fails": "torn"}, ModelFormatError),
        ({"load_hangs": True}, LoadCancelledError),
        ({}, ModelNotFoundError),
    ],
    ids=["broken", "cancelled", "missing"],
)
async def test_what_is_loaded_stays_when_a_load_fails(
    tiny_model: Path,
    other_tiny_model: Path,
    tmp_path: Path,
    memory: dict[str, int],
    script: dict[str, Any],
    error: type[Exception],
) -> None:
    models = Models(load_troubles=other_tiny_model.name, **script, **memory)
    await models.load(target(tiny_model, context_window_size=100), NONE)
    (before,) = models
    wanted = target(other_tiny_model) if script else target(tmp_path / "gone", other_tiny_model)
    loading = asyncio.create_task(models.load(wanted, NONE))
    if error is LoadCancelledError:
        await until(lambda: models.reports[-1].model_id == str(other_tiny_model))
        await until(
            lambda: models.reports[-1].phase == "load" and models.reports[-1].progress > 0.9
        )
        if memory is SMALL:
            assert models.get(str(tiny_model)) is before  # it answers meanwhile
        await models.cancel_load()
    with pytest.raises(error):
        await loading
    (now,) = models
    kept = memory is SMALL or error is ModelNotFoundError
    assert (now is before) == kept
    assert now.model_id == str(tiny_model)
    assert now.runtime.context_window_size == 100
    assert models.state == "ready"
    loads = len(models.reports)
    await models.ensure(target(tiny_model, context_window_size=100), NONE)
    assert len(models.reports) == loads  # it counts as loaded
    await models.unload()
    assert ScriptedRuntime.taken == 0


async def test_a_model_without_room_beside_the_loaded_one_takes_its_place(
    tiny_model: Path, other_tiny_model: Path
) -> None:
    models = Models(**BIG)
    await models.load(target(tiny_model), NONE)
    await models.load(target(other_tiny_model), NONE)
    assert models.names == [other_tiny_model.name]
    with pytest.raises(InsufficientMemoryError):  # not even in its place
        await models.load(target(tiny_model, other_tiny_model), NONE)
    assert models.names == [other_tiny_model.name]
    await models.unload()
    assert ScriptedRuntime.taken == 0


async def test_what_had_to_make_room_comes_back_after_several_failed_loads(
    tiny_model: Path, other_tiny_model: Path
) -> None:
    models = Models(load_hangs=True, load_troubles=other_tiny_model.name, **BIG)
    await models.load(target(tiny_model), NONE)
    loads = []
    for _ in range(3):  # each is ended by the next
        models.reports.clear()
        loads.append(asyncio.create_task(models.load(target(other_tiny_model), NONE)))
        await until(lambda: models.reports and models.reports[-1].progress > 0.9)
    loads[-1].cancel()
    outcomes = await asyncio.gather(*loads, return_exceptions=True)
    assert [type(o) for o in outcomes[:2]] == [LoadCancelledError] * 2
    assert models.names == [tiny_model.name]
    await models.unload()
    assert ScriptedRuntime.taken == 0


async def test_what_comes_back_is_not_begun_again_by_others(
    tiny_model: Path, other_tiny_model: Path
) -> None:
    models = Models(load_hangs=True, load_troubles=other_tiny_model.name, **BIG)
    await models.load(target(tiny_model), NONE)
    loading = asyncio.create_task(models.load(target(other_tiny_model), NONE))
    await until(lambda: models.reports[-1].progress > 0.9 and not models.names)
    first = asyncio.create_task(models.cancel_load())
    while not models._taking_back:  # in each turn of the loop, as it does not take long
        await asyncio.sleep(0)
    await asyncio.gather(
        models.cancel_load(), models.ensure(target(tiny_model), NONE, resends=True), first
    )
    assert models.names == [tiny_model.name]
    with pytest.raises(LoadCancelledError):
        await loading
    await models.unload()
    assert ScriptedRuntime.taken == 0


async def test_an_unload_brings_nothing_back(tiny_model: Path, other_tiny_model: Path) -> None:
    models = Models(load_hangs=True, load_troubles=other_tiny_model.name, **BIG)
    await models.load(target(tiny_model), NONE)
    loading = asyncio.create_task(models.load(target(other_tiny_model), NONE))
    await until(lambda: list(models) == [])
    await models.unload()
    with pytest.raises(LoadCancelledError):
        await loading
    await models.cancel_load()  # there is none
    assert list(models) == []
    assert models.state == "idle"


async def test_a_used_up_process_refuses_what_is_wrong_before_it_is_replaced(
    tiny_model: Path, tmp_path: Path
) -> None:
    models = Models(single_use=True)
    await models.load(target(tiny_model), NONE)
    with pytest.raises(ModelNotFoundError):
        await models.load(target(tmp_path / "gone"), NONE)
    with pytest.raises(EngineDeadError, match="one model per process"):
        await models.load(target(tiny_model), NONE)
    assert models.names == [tiny_model.name]
    await models.unload()


async def test_an_unload_ends_a_load_that_runs(tiny_model: Path) -> None:
    models = Models(load_hangs=True)
    loading = asyncio.create_task(models.load(target(tiny_model), NONE))
    await until(lambda: any(r.phase == "load" for r in models.reports))
    await models.unload()
    with pytest.raises(LoadCancelledError):
        await loading
    assert list(models) == []


async def test_progress_of_several_models_is_one_scale(
    models: Models, tiny_model: Path, other_tiny_model: Path
) -> None:
    await models.load(target(tiny_model, other_tiny_model), NONE)
    progress = [r.progress for r in models.reports]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    halves = [r.model_id for r in models.reports if r.text.endswith("is ready")]
    assert halves == [str(tiny_model), str(other_tiny_model)]
