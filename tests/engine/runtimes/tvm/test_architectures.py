"""Every architecture in every quantization against transformers (tools/golden.py)."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from mlc_widget.engine.runtimes.tvm.architectures import ARCHITECTURES
from mlc_widget.engine.runtimes.tvm.quantization import QUANTIZATIONS
from mlc_widget.engine.runtimes.tvm.target import CpuTarget, host_target, isa_of
from mlc_widget.engine.store.formats.hf_config import mlc_model_type

from .conftest import cpus, executor_for, run_chunks, run_in_a_batch

sys.path.append(str(Path(__file__).parents[4] / "tools"))
import families
import mlc_format

FIXTURES = Path(__file__).parents[3] / "fixtures" / "architectures"
NAMES = sorted(p.name for p in FIXTURES.iterdir())
TOLERANCE = 1e-4
CHUNKS = [30, 30, 24]  # borders at 30 and 60, within pages of 16
X86 = platform.machine() in {"x86_64", "AMD64"}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """The model folder of an architecture in a quantization."""

    def make(name: str, quantization: str) -> Path:
        folder = tmp_path_factory.mktemp("models") / f"{name}-{quantization}"
        shutil.copytree(FIXTURES / name, folder)
        if quantization != "q0f32":
            mlc_format.requantize(folder, quantization)
        return folder

    return make


def data(name: str, quantization: str) -> tuple[list[int], np.ndarray]:
    """Prompt, and transformers' logits at each of its positions."""
    with np.load(FIXTURES / name / f"{quantization}.npz") as file:
        return np.load(FIXTURES / name / "prompt.npy").tolist(), file["logits"]


def assert_close(logits: np.ndarray, reference: np.ndarray) -> None:
    assert logits.shape == reference.shape
    error = np.abs(logits - reference).max() / np.abs(reference).max()
    assert error < TOLERANCE


def test_there_is_a_fixture_for_all_that_generate_text():
    # Those that transformers' files of a family name otherwise, or that are made in two ways.
    other_names = {"bert", "gemma3", "phi-msft"}
    tiny = {mlc_model_type(config) for config in families.CONFIGS.values()}
    assert ARCHITECTURES.keys() - other_names == {*NAMES, *tiny}
    for name in NAMES:
        assert {p.stem for p in (FIXTURES / name).glob("q*.npz")} == set(QUANTIZATIONS)


def _combinations():
    """Every architecture with every quantization, on this CPU and every kind that it supports.

    Each combination is compiled, so `make test` takes one architecture with the quantization that
    none of test_golden.py, test_families.py and the tiers of CPUs below has. Of the other
    architectures and quantizations, it takes what those tiers have not. `make soak` takes the rest.
    """
    for name in NAMES:
        for quantization in QUANTIZATIONS:
            for cpu in (None, *cpus()):
                one = name == "qwen2" and (
                    quantization == "q4f16_0" or (not X86 and quantization in ("q0f16", "q8f16_1"))
                )
                other = not X86 and name in ("mistral", "qwen3") and quantization == "q4f16_1"
                quick = cpu is None and (one or other)
                marks = () if quick else pytest.mark.soak
                id_ = f"{name}-{quantization}-{cpu or 'host'}"
                yield pytest.param(name, quantization, cpu, marks=marks, id=id_)


@pytest.mark.parametrize(("name", "quantization", "cpu"), list(_combinations()))
def test_logits_alone_and_in_a_batch(name, quantization, cpu, folder_of, cache_dir):
    prompt, reference = data(name, quantization)
    options = {} if cpu is None else {"cpu": cpu}
    executor = executor_for(folder_of(name, quantization), cache_dir, **options)
    alone = run_chunks(executor, prompt, CHUNKS)
    assert_close(alone, reference)
    assert np.array_equal(run_in_a_batch(executor, prompt), alone)


def _tiers():
    """Each float16 quantization on each tier; `make test` takes one on the lower tier.

    test_numerics.py has the other tier, and test_families.py Qwen 3's layers, as Gemma 3 has them.
    """
    quick = {("mistral", "q0f16", "x86-64")}
    for name in ("mistral", "qwen3"):
        for quantization in ("q0f16", "q4f16_1", "q8f16_1"):
            for cpu, features in (("haswell", {"avx2", "fma", "f16c"}), ("x86-64", set())):
                marks = () if (name, quantization, cpu) in quick else pytest.mark.soak
                id_ = f"{name}-{quantization}-{cpu}"
                yield pytest.param(name, quantization, cpu, features, marks=marks, id=id_)


@pytest.mark.skipif(not X86, reason="x86-64's tiers")
@pytest.mark.parametrize(("name", "quantization", "cpu", "features"), list(_tiers()))
def test_float16_on_other_tiers_of_cpus(name, quantization, cpu, features, folder_of, cache_dir):
    host = host_target()
    prompt, reference = data(name, quantization)
    target = CpuTarget(host.triple, cpu, (), isa_of(features, host.triple))
    executor = executor_for(folder_of(name, quantization), cache_dir, target)
    alone = run_chunks(executor, prompt, CHUNKS)
    assert_close(alone, reference)
    assert np.array_equal(run_in_a_batch(executor, prompt), alone)
