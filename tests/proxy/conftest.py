"""Fixtures with a model that can be held at a token."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlc_widget import AsyncKernelMLCEngine

from ..waiting import until

Make = Callable[..., Awaitable[AsyncKernelMLCEngine]]

DEADLINE_S = 60.0


class GatedModel:
    """Holds the model of the engines that it makes; see `gate`.

    Workers find it by ``RECOVERY_GATE`` and ``PYTHONPATH``.
    """

    def __init__(self, folder: Path, make: Make, model: str) -> None:
        self.folder, self._make, self._model = folder, make, model
        self.release()

    async def engine(self, **options: Any) -> AsyncKernelMLCEngine:
        engine = await self._make(load=False, runtime="tvm", **self.arguments, **options)
        await engine.reload(self._model)
        return engine

    @property
    def arguments(self) -> dict[str, Any]:
        return {"logit_processors": {"*": "gate:Gate"}, "runtime_options": {"threads": 1}}

    def hold(self, at: int) -> None:
        """From now on the model is held after `at` tokens of each generation."""
        self._hold_at(at)
        for name in ("open", "held"):
            (self.folder / name).unlink(missing_ok=True)

    def release(self) -> None:
        (self.folder / "open").touch()
        self._hold_at(0)

    def _hold_at(self, at: int) -> None:
        """Write atomically, since the worker may be reading it."""
        new = self.folder / "at.new"
        new.write_text(str(at))
        new.replace(self.folder / "at")

    @property
    def held(self) -> bool:
        return (self.folder / "held").exists()

    async def until_held(self) -> None:
        await until(lambda: self.held)


def import_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have workers that are started from now on find the modules in a folder."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.fixture
def worker_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes a module that workers can import, given its name and source."""

    def write(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)
        import_from(tmp_path, monkeypatch)

    return write


class SharedGatedModel(GatedModel):
    """One engine for tests after which it can go on, in whatever state they leave it."""

    def __init__(self, folder: Path, model: str) -> None:
        async def make(**options: Any) -> AsyncKernelMLCEngine:
            options.pop("load")
            self._engine = AsyncKernelMLCEngine(**options)
            return self._engine

        super().__init__(folder, make, model)
        self._engine: AsyncKernelMLCEngine | None = None

    async def engine(self, **options: Any) -> AsyncKernelMLCEngine:
        assert not options, "it would not be the same engine"
        self.release()
        (self.folder / "die").unlink(missing_ok=True)
        if self._engine is None:
            return await super().engine()
        await self._engine.reload(self._model)
        assert not self._engine._core._in_flight_requests._active
        return self._engine

    async def terminate(self) -> None:
        self.release()
        if self._engine is not None:
            await self._engine.terminate()


@pytest.fixture(scope="module")
def shared_gated(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> Iterator[SharedGatedModel]:
    folder = tmp_path_factory.mktemp("gate")
    model = SharedGatedModel(folder, str(tiny_model))
    with pytest.MonkeyPatch.context() as patch:
        import_from(Path(__file__).parent, patch)
        patch.setenv("RECOVERY_GATE", str(folder))
        yield model
        asyncio.run(model.terminate())


@pytest.fixture
def gated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel_engine: Make, tiny_model: Path
) -> GatedModel:
    import_from(Path(__file__).parent, monkeypatch)
    monkeypatch.setenv("RECOVERY_GATE", str(tmp_path))
    return GatedModel(tmp_path, kernel_engine, str(tiny_model))
