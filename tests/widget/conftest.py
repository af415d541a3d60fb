from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.proxy.engines import KernelMLCEngine

from .script_folder import write_script_folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder for the scripted runtime."""
    return write_script_folder(tmp_path_factory.mktemp("models") / "script")


@pytest.fixture(scope="module")
def make_engine(model_folder: Path) -> Iterator[Callable[..., KernelMLCEngine]]:
    """Makes engines whose worker follows a script (`scripted.Script`), each script once."""
    engines: dict[str, KernelMLCEngine] = {}

    def make(*, load: bool = True, **script: Any) -> KernelMLCEngine:
        key = json.dumps([load, script])
        if key not in engines:
            engines[key] = KernelMLCEngine(runtime="scripted", runtime_options=script)
            if load:
                engines[key].reload(str(model_folder))
        return engines[key]

    yield make
    for engine in engines.values():
        engine.terminate()
