"""The options of engines and factories: each is written once, and means the same everywhere."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest

import mlc_widget
from mlc_widget import (
    AsyncKernelMLCEngine,
    AsyncMLCEngine,
    BadRequestError,
    EngineOptions,
    KernelMLCEngine,
    MLCEngine,
    ModelNotFoundError,
    WorkerOptions,
)
from mlc_widget.api.engine_options import ENGINE_DEFAULTS, runtime_options_of
from mlc_widget.api.table.options import MAP_DEFAULTS
from mlc_widget.proxy.options import WORKER_DEFAULTS

from ..kinds import but_for_soak

ENGINES = [AsyncKernelMLCEngine, AsyncMLCEngine, KernelMLCEngine, MLCEngine]
FACTORIES = {
    "create_kernel_mlc_engine": AsyncKernelMLCEngine,
    "create_mlc_engine": AsyncMLCEngine,
    "kernel_mlc_engine": KernelMLCEngine,
    "mlc_engine": MLCEngine,
}


def make(factory: str, model: str, **options: Any) -> Any:
    made = getattr(mlc_widget, factory)(model, **options)
    return asyncio.run(made) if inspect.iscoroutine(made) else made


@pytest.mark.parametrize(
    ("options", "defaults"), [(EngineOptions, ENGINE_DEFAULTS), (WorkerOptions, WORKER_DEFAULTS)]
)
def test_every_option_has_a_default_and_a_description(options: Any, defaults: Any) -> None:
    assert options.__annotations__.keys() == defaults.keys()
    documented = (inspect.getdoc(EngineOptions) or "") + (inspect.getdoc(options) or "")
    for name in defaults:
        assert f"    {name}: " in documented


@pytest.mark.parametrize("maker", [*ENGINES, *FACTORIES], ids=str)
def test_signatures_name_the_options(maker: Any) -> None:
    maker = getattr(mlc_widget, maker) if isinstance(maker, str) else maker
    kernel = "kernel" in maker.__name__.lower()
    shown = inspect.signature(maker).parameters
    for name, default in (WORKER_DEFAULTS if kernel else ENGINE_DEFAULTS).items():
        assert shown[name].default == default
        assert shown[name].kind is inspect.Parameter.KEYWORD_ONLY
    assert not {"options", "models"} & shown.keys()


MERGED: dict[str, tuple[EngineOptions, dict[str, Any]]] = {
    "none": ({}, {}),
    "device": ({"device": "cuda"}, {"device": "cuda"}),
    "beside": (
        {"device": "cuda", "runtime_options": {"threads": 2}},
        {"threads": 2, "device": "cuda"},
    ),
    "twice": (
        {"device": "cpu", "runtime_options": {"device": "cpu"}},
        {"device": "cpu"},
    ),
    "as before": ({"runtime_options": {"device": "auto"}}, {"device": "auto"}),
}


@pytest.mark.parametrize("case", MERGED)
def test_the_device_is_an_option_of_the_runtime(case: str) -> None:
    given, merged = MERGED[case]
    before = dict(given.get("runtime_options") or {})
    assert runtime_options_of({**ENGINE_DEFAULTS, **given}) == merged
    assert dict(given.get("runtime_options") or {}) == before, "the caller's own is unchanged"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            {"device": "cuda", "runtime_options": {"device": "cpu"}},
            r"device = 'cuda' and runtime_options\['device'\] = 'cpu'",
        ),
        ({"device": 0}, "device = 0"),
        ({"device": " "}, "device = ' '"),
        ({"runtime_options": "cuda"}, "runtime_options = 'cuda'"),
    ],
    ids=["both", "number", "blank", "text"],
)
def test_bad_devices_are_refused_before_any_work(
    engine: Any, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(BadRequestError, match=named):
        engine(**options)


@pytest.mark.parametrize("engine", FACTORIES.values())
@pytest.mark.parametrize("way", ["position", "model", "model_id"])
def test_an_engine_that_is_given_a_model_names_the_factory(engine: Any, way: str) -> None:
    factory = next(name for name, made in FACTORIES.items() if made is engine)
    with pytest.raises(TypeError, match=rf"`(await )?{factory}\('demo'\)`"):
        engine("demo") if way == "position" else engine(**{way: "demo"})


@pytest.mark.parametrize("maker", [*ENGINES, *FACTORIES], ids=str)
def test_an_unknown_option_is_named(maker: Any) -> None:
    with pytest.raises(TypeError, match=r"'devise'\. Did you mean 'device'"):
        make(maker, "demo", devise="cpu") if isinstance(maker, str) else maker(devise="cpu")


QUICK_FACTORIES = but_for_soak(FACTORIES, "create_mlc_engine", "kernel_mlc_engine")
"""Each core and each interface once."""


@pytest.fixture(params=FACTORIES)
def factory(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_factories_give_a_ready_engine(factory: str, tiny_model: Path) -> None:
    pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")
    engine = make(factory, str(tiny_model), device="cpu", runtime_options={"threads": 1})
    try:
        assert type(engine) is FACTORIES[factory]
        models = engine.models.list()
        models = asyncio.run(models) if inspect.iscoroutine(models) else models
        assert [model.id for model in models] == [str(tiny_model)]
    finally:
        ended = engine.terminate()
        if inspect.iscoroutine(ended):
            asyncio.run(ended)


@pytest.mark.parametrize("factory", QUICK_FACTORIES, indirect=True)
def test_the_device_reaches_the_runtime(factory: str, tiny_model: Path) -> None:
    with pytest.raises(BadRequestError, match="abacus"):
        make(factory, str(tiny_model), device="abacus", runtime="tvm")


@pytest.mark.parametrize("factory", QUICK_FACTORIES, indirect=True)
def test_a_factory_that_fails_leaves_no_engine(factory: str) -> None:
    with pytest.raises(ModelNotFoundError):
        make(factory, "no-such-model", runtime="tvm")


@pytest.mark.parametrize("method", ["map", "map_stream"])
@pytest.mark.parametrize("engine", ENGINES)
def test_maps_name_their_options(engine: Any, method: str) -> None:
    shown = inspect.signature(getattr(engine, method)).parameters
    assert [*shown] == ["self", "prompt", "data", *MAP_DEFAULTS, "options"]
    for name, default in MAP_DEFAULTS.items():
        assert shown[name].default == default
        assert shown[name].kind is inspect.Parameter.KEYWORD_ONLY
    described = inspect.getdoc(mlc_widget.AsyncMLCEngineInterface.map) or ""
    for name in shown:
        assert name == "self" or f"    {name}: " in described or f"    **{name}: " in described
