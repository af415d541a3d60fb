"""device="cuda": what can be checked without a GPU, and the golden logits with one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mlc_widget.api.errors import RuntimeUnavailableError
from mlc_widget.engine.runtimes.tvm.cuda import target as cuda
from mlc_widget.engine.runtimes.tvm.cuda.compiler import _cached
from mlc_widget.engine.runtimes.tvm.options import TVMOptions
from mlc_widget.engine.runtimes.tvm.quantization import quantization_of
from mlc_widget.engine.runtimes.tvm.runtime import TVMRuntime

from .conftest import GOLDEN, Reports, collect, executor_for, greedy, run_chunks, source_of
from .test_architectures import CHUNKS, FIXTURES, NAMES, data, folder_of  # noqa: F401

NAME = "gqa-tied-q0f32"
needs_gpu = pytest.mark.skipif(not cuda.is_there(), reason="needs an NVIDIA GPU")
no_gpu = pytest.mark.skipif(cuda.is_there(), reason="this machine has an NVIDIA GPU")


@no_gpu
async def test_without_a_driver_the_error_says_so(cache_dir):
    runtime = TVMRuntime({"device": "cuda", "cache_dir": cache_dir})
    with pytest.raises(RuntimeUnavailableError, match=r"driver.*libcuda.*device='cpu'"):
        await runtime.load(source_of(GOLDEN / NAME), Reports())


@no_gpu
async def test_auto_takes_the_cpu(cache_dir):
    runtime = TVMRuntime({"device": "auto", "cache_dir": cache_dir})
    await runtime.load(source_of(GOLDEN / NAME), Reports())
    try:
        events = await collect(runtime, [5, 6, 7], greedy(max_tokens=4))
        assert sum(len(e.token_ids) for e in events) == 4
    finally:
        await runtime.unload()


@pytest.mark.parametrize(
    ("loads", "modules", "headers", "missing"),
    [
        ({"libcuda.so.1"}, True, True, "libcudart.so.13"),
        ({"libcuda.so.1", "libcudart.so.13"}, False, True, "cuda.bindings.nvrtc"),
        ({"libcuda.so.1", "libcudart.so.13"}, True, False, "headers"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_brings_it(
    monkeypatch, loads, modules, headers, missing
):
    monkeypatch.setattr(cuda, "_load", lambda name, *others: object() if name in loads else None)
    monkeypatch.setattr(cuda, "_has", lambda module: modules)
    monkeypatch.setattr(cuda, "_headers", lambda: headers)
    with pytest.raises(RuntimeUnavailableError, match=missing) as caught:
        cuda.prepare()
    assert cuda.INSTALL in str(caught.value)


def test_headers_are_found_with_cccl_or_not_at_all(monkeypatch, tmp_path):
    include = tmp_path / "include"
    include.mkdir()
    (include / "cuda_fp16.h").touch()
    monkeypatch.setenv("CUDA_PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(cuda, "_toolkit", lambda: tmp_path)
    found_elsewhere = cuda._headers()
    std = include / "cccl" / "cuda" / "std"
    std.mkdir(parents=True)
    (std / "cstdint").touch()
    monkeypatch.setenv("CUDA_PATH", str(tmp_path))
    assert cuda._headers()
    import os

    assert os.environ["CUDA_PATH"] == str(tmp_path)
    assert not found_elsewhere or cuda.Path("/usr/local/cuda").is_dir()


def traced():
    """One quantization for each architecture; `make test` takes a 4-bit one."""
    for name, quantization in zip(NAMES, ["q0f16", "q0f32", "q4f16_1", "q8f16_1"], strict=True):
        marks = () if quantization == "q4f16_1" else pytest.mark.soak
        yield pytest.param(name, quantization, marks=marks, id=f"{name}-{quantization}")


@pytest.mark.parametrize(("name", "quantization"), list(traced()))
def test_every_architecture_is_traced(name, quantization):
    from mlc_widget.engine.runtimes.tvm.architectures import architecture_of
    from mlc_widget.engine.runtimes.tvm.compile import make_program, trace

    config = json.loads((FIXTURES / name / "mlc-chat-config.json").read_text())
    architecture = architecture_of(config["model_type"], config["model_config"])
    there = cuda.CudaTarget("sm_90", "x86_64-unknown-linux-gnu", "x86-64")
    program = make_program(architecture, quantization_of(quantization), there, "float16")
    module = trace(program)
    names = {v.name_hint for v in module.get_global_vars()}
    assert "forward" in names
    assert any(n.startswith("matmul") for n in names)


def test_a_damaged_file_of_the_compile_cache_is_made_again(tmp_path):
    file = tmp_path / "cubins" / "a.cubin"
    assert _cached(file, lambda: b"first") == b"first"
    assert _cached(file, lambda: b"second") == b"first"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert _cached(file, lambda: b"third") == b"third"
    assert _cached(file, lambda: b"fourth") == b"third"


def test_the_option_is_known():
    assert TVMOptions.parse({"device": "cuda"}).device == "cuda"


@needs_gpu
@pytest.mark.parametrize("quantization", ["q0f16", "q4f16_0", "q4f16_1", "q8f16_1"])
@pytest.mark.parametrize("name", NAMES)
def test_golden_logits_on_a_gpu(name, quantization, folder_of, cache_dir):  # noqa: F811
    prompt, reference = data(name, quantization)
    executor = executor_for(folder_of(name, quantization), cache_dir, device="cuda")
    logits = run_chunks(executor, prompt, CHUNKS)
    assert np.linalg.norm(logits - reference) < 3e-3 * np.linalg.norm(reference)
    assert np.array_equal(run_chunks(executor, prompt, [1, 2, 5, 76]), logits)
