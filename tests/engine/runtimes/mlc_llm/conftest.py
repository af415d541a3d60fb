"""Engines on mlc_llm in an environment of its own: over the stand-in, or the real package."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mlc_widget import AsyncKernelMLCEngine

from .environment import faults, kernel_engine_arguments
from .model_folder import write_model_folder


@dataclass(frozen=True)
class Package:
    """An mlc_llm and a model for it.

    Attributes:
        engine: Arguments of the kernel engines that run on it.
        model: A model folder.
        real: Whether it is MLC's.
        library: The model's, where it need not be compiled.
        environment: Variables for its workers.
    """

    engine: dict[str, Any]
    model: Path
    real: bool = False
    library: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the real package's tests where it is not, unless they are asked for."""
    if "mlc_llm" in (config.getoption("markexpr") or "") or _importable(_real_python()):
        return
    here = Path(__file__).parent
    reason = f"mlc_llm cannot be imported in {_real_python()}; set MLC_WIDGET_TEST_MLC_PYTHON"
    for item in items:
        if item.get_closest_marker("mlc_llm") and here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


def _real_python() -> str:
    return os.environ.get("MLC_WIDGET_TEST_MLC_PYTHON", sys.executable)


@functools.cache
def _importable(python: str) -> bool:
    if python != sys.executable:
        return subprocess.run([python, "-c", "import mlc_llm"]).returncode == 0
    spec = importlib.util.find_spec("mlc_llm")
    return spec is not None and spec.origin is not None


@pytest.fixture(scope="session")
def standin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The stand-in: what it is to do wrong goes through `make_engine`."""
    home = tmp_path_factory.mktemp("mlc_llm_home")
    cache: Path = request.config.cache.mkdir("mlc_llm-environment")
    engine = kernel_engine_arguments(cache)
    model = write_model_folder(tmp_path_factory.mktemp("models") / "standin")
    library = home / "model.so"
    library.write_bytes(b"library")
    environment = {"MLC_LLM_HOME": str(home), **faults()}
    return Package(engine, model, library=library, environment=environment)


def real_package() -> Package:
    """The real package, or a skip that says what is missing."""
    python = _real_python()
    if not _importable(python):
        pytest.skip(f"mlc_llm cannot be imported in {python}; set MLC_WIDGET_TEST_MLC_PYTHON")
    model = os.environ.get("MLC_WIDGET_TEST_MLC_MODEL")
    if model is None:
        pytest.skip("MLC_WIDGET_TEST_MLC_MODEL names no model folder")
    options = {"device": os.environ.get("MLC_WIDGET_TEST_MLC_DEVICE", "auto")}
    if library := os.environ.get("MLC_WIDGET_TEST_MLC_LIB"):
        options["model_lib"] = library
    engine = {"runtime": "mlc_llm", "python": python, "runtime_options": options}
    return Package(engine, Path(model), real=True)


@pytest.fixture(
    scope="session", params=["standin", pytest.param("real", marks=pytest.mark.mlc_llm)]
)
def package(request: pytest.FixtureRequest) -> Package:
    """Each package that the suite runs on."""
    if request.param == "real":
        return real_package()
    standin: Package = request.getfixturevalue("standin")
    return standin


EngineFactory = Callable[..., Awaitable[AsyncKernelMLCEngine]]


@pytest_asyncio.fixture
async def make_engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EngineFactory]:
    """Makes engines on a package and terminates them.

    `trouble` is the stand-in's; with `compiled=False` it has to compile the model.
    """
    engines: list[AsyncKernelMLCEngine] = []

    async def make(
        package: Package,
        *,
        load: bool = True,
        compiled: bool = True,
        options: dict[str, Any] | None = None,
        trouble: dict[str, Any] | None = None,
        **more: Any,
    ) -> AsyncKernelMLCEngine:
        for name, value in {**package.environment, **faults(**(trouble or {}))}.items():
            monkeypatch.setenv(name, value)
        arguments = {**package.engine, **more}
        options = {**arguments["runtime_options"], **(options or {})}
        if compiled and package.library is not None:
            options.setdefault("model_lib", str(package.library))
        arguments["runtime_options"] = options
        engine = AsyncKernelMLCEngine(**arguments)
        engines.append(engine)
        if load:
            await engine.reload(str(package.model))
        return engine

    yield make
    for engine in engines:
        await engine.terminate()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(package: Package) -> AsyncIterator[AsyncKernelMLCEngine]:
    """One engine with a model in it, for the tests that leave it as they found it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in package.environment.items():
            patch.setenv(name, value)
        engine = AsyncKernelMLCEngine(**package.engine)
        await engine.reload(str(package.model))
    yield engine
    await engine.terminate()
