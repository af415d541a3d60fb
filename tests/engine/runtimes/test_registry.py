from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from mlc_widget.api.errors import BadRequestError, RuntimeUnavailableError
from mlc_widget.engine.runtimes import registry
from mlc_widget.engine.runtimes.mlc_llm import devices

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """What is installed here, and which GPU there is."""

    def be(*, tvm: bool, mlc_llm: bool, gpu: str | None, cpu_build: bool = False) -> None:
        monkeypatch.setattr(registry, "_has_own_tvm", lambda: tvm)
        monkeypatch.setattr(devices, "installed", lambda: mlc_llm)
        monkeypatch.setattr(devices, "built_for_cpu_only", lambda: cpu_build)
        monkeypatch.setattr(devices, "find_gpu", lambda: gpu)

    return be


@pytest.mark.parametrize(
    ("device", "chosen"),
    [
        (None, "mlc_llm"),
        ("auto", "mlc_llm"),
        ("cuda:1", "mlc_llm"),
        ("cpu", "tvm"),
        ("cpu:0", "tvm"),
    ],
)
def test_auto_takes_mlc_llm_for_a_gpu_that_is_not_declined(
    machine: Machine, device: str | None, chosen: str
) -> None:
    machine(tvm=True, mlc_llm=True, gpu="cuda:0")
    assert registry.choose_runtime({} if device is None else {"device": device}) == chosen


@pytest.mark.parametrize(
    "there",
    [
        {"mlc_llm": False, "gpu": "cuda:0"},
        {"mlc_llm": True, "gpu": None},
        {"mlc_llm": True, "gpu": "cuda:0", "cpu_build": True},
    ],
    ids=["no mlc_llm", "no GPU", "mlc_llm for CPUs"],
)
def test_auto_takes_tvm_otherwise(machine: Machine, there: dict[str, object]) -> None:
    machine(tvm=True, **there)
    assert registry.choose_runtime({}) == "tvm"


@pytest.mark.parametrize("mlc_llm", [True, False])
def test_where_none_can_run_the_error_says_what_to_install(machine: Machine, mlc_llm: bool) -> None:
    machine(tvm=False, mlc_llm=mlc_llm, gpu=None)
    with pytest.raises(RuntimeUnavailableError, match=r'pip install "mlc-widget\[tvm\]"'):
        registry.choose_runtime({})


@pytest.mark.parametrize("name", ["", "TVM", "vllm", "mlc-llm"])
def test_an_unknown_runtime_is_named_with_those_there_are(name: str) -> None:
    with pytest.raises(BadRequestError, match="give one of auto, mlc_llm, tvm, scripted") as caught:
        registry.create_runtime(name, {})
    assert caught.value.param == "runtime"
    assert repr(name) in caught.value.message


def test_a_runtime_is_made_with_its_options() -> None:
    assert registry.create_runtime("scripted", {"text": "Hi"}).name == "scripted"
    with pytest.raises(BadRequestError, match="no_such_option"):
        registry.create_runtime("scripted", {"no_such_option": 1})


def test_importing_the_registry_imports_no_runtime() -> None:
    code = (
        "import sys; import mlc_widget.engine.runtimes.registry;"
        "print([m for m in sys.modules if m.startswith('mlc_widget.engine.runtimes.')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tvm" not in ran.stdout
    assert "mlc_llm" not in ran.stdout
    assert "scripted" not in ran.stdout
