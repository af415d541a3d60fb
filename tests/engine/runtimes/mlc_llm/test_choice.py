"""Which runtime ``auto`` chooses, what a worker needs, and which modules import mlc_llm or TVM."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

import mlc_widget
from mlc_widget.api.errors import RuntimeUnavailableError
from mlc_widget.engine.runtimes import registry
from mlc_widget.engine.runtimes.mlc_llm import devices

from .conftest import EngineFactory, Package

PACKAGE = Path(mlc_widget.__file__).parent
RUNTIMES = Path("engine/runtimes")
MAY_IMPORT = {"mlc_llm": [RUNTIMES / "mlc_llm"], "tvm": [RUNTIMES / "mlc_llm", RUNTIMES / "tvm"]}


def imports(file: Path) -> set[str]:
    """The top-level names that a file imports absolutely, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


def test_only_their_runtimes_import_mlc_llm_and_tvm() -> None:
    importers: dict[str, set[Path]] = {name: set() for name in MAY_IMPORT}
    for file in PACKAGE.rglob("*.py"):
        for name in imports(file) & importers.keys():
            importers[name].add(file.relative_to(PACKAGE))
    for name, files in importers.items():
        assert files, f"nothing imports {name}: this test looks in the wrong place"
        assert all(any(r in f.parents for r in MAY_IMPORT[name]) for f in files)


@pytest.mark.parametrize(
    ("installed", "cpu_wheel", "gpu", "own_tvm", "options", "expected"),
    [
        (True, False, "cuda", True, {}, "mlc_llm"),
        (True, False, "cuda", False, {}, "mlc_llm"),
        (True, False, None, True, {}, "tvm"),
        (True, True, "cuda", True, {}, "tvm"),
        (False, False, "cuda", True, {}, "tvm"),
        (True, False, "cuda", True, {"device": "cpu"}, "tvm"),
        (True, False, None, True, {"device": "vulkan"}, "mlc_llm"),
        (True, False, None, False, {}, None),
        (False, False, None, False, {}, None),
    ],
)
def test_auto(
    installed: bool,
    cpu_wheel: bool,
    gpu: str | None,
    own_tvm: bool,
    options: dict[str, str],
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "installed", lambda: installed)
    monkeypatch.setattr(devices, "built_for_cpu_only", lambda: cpu_wheel)
    monkeypatch.setattr(devices, "find_gpu", lambda: gpu)
    monkeypatch.setattr(registry, "_has_own_tvm", lambda: own_tvm)
    if expected is not None:
        assert registry.choose_runtime(options) == expected
        return
    with pytest.raises(RuntimeUnavailableError, match="install"):
        registry.choose_runtime(options)


def test_a_folder_called_mlc_llm_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlc_llm").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(devices, "PACKAGE", "mlc_llm")
    assert devices.installed() is False


def test_a_missing_mlc_llm_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "installed", lambda: False)
    with pytest.raises(RuntimeUnavailableError, match=r"mlc\.ai/wheels"):
        registry.create_runtime("mlc_llm", {})


def test_the_worker_needs_little(standin: Package) -> None:
    """The environment of the other tests has neither the notebook's packages nor our TVM."""
    names = ("ipywidgets", "anywidget", "openai", "numpy", "llguidance", "tvm_ffi")
    code = (
        "import importlib.util, importlib.metadata as m, mlc_widget.worker.app, mlc_llm, sys\n"
        f"print([n for n in {names!r} if importlib.util.find_spec(n)])\n"
        "print([d.name for d in m.distributions() if d.name == 'apache-tvm'])\n"
        "print('tvm' in sys.modules and sys.modules['tvm'].__file__)"
    )
    done = subprocess.run(
        [standin.engine["python"], "-c", code], capture_output=True, text=True, check=True
    )
    there, tvm, file = done.stdout.splitlines()
    assert there == tvm == "[]"
    assert "standin" in file


async def test_auto_in_the_worker(
    standin: Package, make_engine: EngineFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice is made where the model runs, and there mlc_llm is installed without a GPU."""
    engine = await make_engine(standin, load=False, runtime="auto", options={"device": "auto"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if devices._has_rocm():
        pytest.skip("there is a GPU here")
    with pytest.raises(RuntimeUnavailableError, match="finds no GPU"):
        await engine.reload(str(standin.model))
    await engine.terminate()
    engine = await make_engine(
        standin, runtime="auto", options={"device": "cuda"}, trouble={"devices": ["cuda:0"]}
    )
    info = await engine.device_info()
    assert (info["runtime"], info["device"]) == ("mlc_llm", "cuda:0")
