"""Files of the user's that are named like packages do not shadow them; if one does, it is named."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mlc_widget import AsyncKernelMLCEngine

from ..kernels import TYPES_WHEN_USED

pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")

Make = Callable[..., Awaitable[AsyncKernelMLCEngine]]

HELLO = [{"role": "user", "content": "Hello!"}]
NAMES = (
    *("tokenizers", "tvm", "tvm_ffi", "numpy", "psutil", "llguidance", "jinja2", "huggingface_hub"),
    *("json", "struct", "random", "types", "logging", "zmq", "ipykernel", "openai", "typing"),
    *("sitecustomize", "mlc_widget"),
)
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}


@pytest.mark.parametrize(
    "path",
    [
        None,
        "",
        pytest.param(".", marks=pytest.mark.soak),
        pytest.param("{cwd}", marks=pytest.mark.soak),
        "{cwd}/:{cwd}/../{name}",
    ],
)
async def test_files_beside_the_notebook_are_not_imported(
    kernel_engine: Make,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str | None,
) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the trap fell')")
    (tmp_path / "helpers.py").write_text(
        "from mlc_widget.worker.handler import KernelMLCEngineHandler\n"
        "class Mine(KernelMLCEngineHandler):\n"
        "    async def custom_request(self, name, message):\n"
        "        return name.upper()\n"
    )
    monkeypatch.chdir(tmp_path)
    if path is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONPATH", path.format(cwd=tmp_path, name=tmp_path.name))
    if path is None:
        engine = await kernel_engine(load=False, runtime="tvm", handler="helpers:Mine")
        await engine.reload(str(tiny_model))
        await engine.chat.completions.create(messages=HELLO, max_tokens=4, response_format=SCHEMA)
        assert await engine.custom_request("a module of the notebook's") is not None
    else:
        engine = await kernel_engine()
        await engine.chat.completions.create(messages=HELLO)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizers", ""),
        ("tokenizers", "1 / 0"),
        ("tvm", "import no_such_module"),
        ("numpy", ""),
        ("psutil", ""),
        pytest.param("llguidance", "import no_such_module", marks=pytest.mark.soak),
    ],
)
def test_a_file_in_a_packages_place_is_named(
    tiny_model: Path, tmp_path: Path, name: str, content: str
) -> None:
    file = tmp_path / f"{name}.py"
    file.write_text(content)
    code = f"""
import sys
from mlc_widget import MLCEngine
from mlc_widget.api.errors import RuntimeUnavailableError
{TYPES_WHEN_USED}
engine = MLCEngine(runtime="tvm")
try:
    engine.reload(sys.argv[1])
    engine.chat.completions.create(messages={HELLO}, max_tokens=4, response_format={SCHEMA})
except RuntimeUnavailableError as error:
    print(error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        timeout=120,
    )
    assert str(file) in ended.stdout, ended.stderr
    assert "nstall" not in ended.stdout
    assert "ownload" not in ended.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space")
@pytest.mark.parametrize(
    "room",
    [0, pytest.param(60, marks=pytest.mark.soak), 200, pytest.param(300, marks=pytest.mark.soak)],
)
def test_memory_that_ran_out_is_said_to_have(tiny_model: Path, room: int) -> None:
    """In MB, beside what the interpreter has without TVM."""
    code = f"""
import resource, sys
from mlc_widget import MLCEngine
from mlc_widget.api.errors import MLCEngineError
import mlc_widget.engine.runtimes.tvm.runtime, openai.types.chat
engine = MLCEngine(runtime="tvm", runtime_options={{"threads": 1}})
engine.metrics()
with open("/proc/self/statm") as statm:
    pages = int(statm.read().split()[0])
most = pages * resource.getpagesize() + {room} * 10**6
resource.setrlimit(resource.RLIMIT_AS, (most, most))
try:
    engine.reload(sys.argv[1])
except MLCEngineError as error:
    print(type(error).__name__, error, flush=True)
else:
    print("fits", flush=True)
import os; os._exit(0)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model)], capture_output=True, text=True, timeout=120
    )
    assert "InsufficientMemoryError" in ended.stdout, ended.stdout + ended.stderr
    assert "RLIMIT_AS" in ended.stdout
    assert "nstall" not in ended.stdout
    assert "ownload" not in ended.stdout
