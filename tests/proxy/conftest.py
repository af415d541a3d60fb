"""Fixtures with a model that can be held at a token."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mlc_widget import AsyncKernelMLCEngine

from ..waiting import until

Make = Callable[..., Awaitable[AsyncKernelMLCEngine]]

DEADLINE_S = 60.0


class GatedModel:
    """Holds the model of the engines that it makes; see `gate`."""

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


@pytest.fixture
def gated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel_engine: Make, tiny_model: Path
) -> GatedModel:
    import_from(Path(__file__).parent, monkeypatch)
    monkeypatch.setenv("RECOVERY_GATE", str(tmp_path))
    return GatedModel(tmp_path, kernel_engine, str(tiny_model))
