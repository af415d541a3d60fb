"""Families from transformers' files: logits against transformers (tools/golden_families.py)."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlc_widget.api.errors import UnsupportedModelError
from mlc_widget.engine.runtimes.base import ModelSource
from mlc_widget.engine.runtimes.tvm.cuda import target as cuda
from mlc_widget.engine.runtimes.tvm.loading import Progress, make_executor
from mlc_widget.engine.runtimes.tvm.options import TVMOptions
from mlc_widget.engine.runtimes.tvm.quantization import quantization_of
from mlc_widget.engine.runtimes.tvm.weights import check_weights
from mlc_widget.engine.store.conversion import Conversion
from mlc_widget.engine.store.formats.float_weights import FloatWeights
from mlc_widget.engine.store.stored_model import read_model
from mlc_widget.engine.text.tokenizer import Tokenizer
from tests.engine.store import hf_folders
from tests.engine.store.family_folders import FIXTURES, golden, state, transformers_folder

from .conftest import Reports, Stepper, cpus, executor_for, needs_gpu, run_chunks, run_in_a_batch
from .family_files import write_family

sys.path.append(str(Path(__file__).parents[4] / "tools"))
import families
import mlc_format

NAMES = sorted(families.CONFIGS)
CHUNKS = [30, 30, 24]  # borders at 30 and 60, within pages of 16
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """The folder in MLC format of a family in a quantization, converted from transformers'."""
    made: dict[tuple[str, str], Path] = {}
    root = tmp_path_factory.mktemp("families")

    def converted(name: str) -> Path:
        target = root / f"{name}-q0f32"
        source = transformers_folder(root / name, name)
        with Conversion(source, "q0f32") as conversion:
            conversion.run(target, Tokenizer.from_folder(source), lambda done, total: None)
        return target

    def quantized(name: str, quantization: Any) -> Path:
        folder = root / f"{name}-{quantization}"
        shutil.copytree(make(name, "q0f32"), folder)
        mlc_format.requantize(folder, quantization)
        if quantization == "q4f16_1":
            turn_some_signs(folder)
        return folder

    def make(name: str, quantization: str) -> Path:
        if (name, quantization) not in made:
            floats = quantization == "q0f32"
            made[name, quantization] = converted(name) if floats else quantized(name, quantization)
        return made[name, quantization]

    return make


def turn_some_signs(folder: Path) -> None:
    """Make some scales negative, as searched ones are, with the codes of the same weights."""
    params = mlc_format.read_params(folder)
    for name in [n for n in params if n.endswith("q_weight")]:
        scale = name.removesuffix("q_weight") + "q_scale"
        turned = np.indices(params[scale].shape).sum(0) % 2 == 1  # of every other group
        params[scale] = np.where(turned, -params[scale], params[scale])
        words = np.repeat(turned, 4, axis=1)  # codes from 0 to 14, around 7
        params[name] = np.where(words, np.uint32(0xEEEEEEEE) - params[name], params[name])
    for shard in folder.glob("params_shard_*.bin"):
        shard.unlink()
    mlc_format.write_params(folder, params, encode_format="raw")


@pytest.mark.parametrize("name", NAMES)
def test_every_family_can_be_stored_in_4_bits(name, tmp_path):
    source = transformers_folder(tmp_path / name, name)
    with Conversion(source, "q4f16_1") as conversion:
        conversion.run(tmp_path / "made", Tokenizer.from_folder(source), lambda done, total: None)
    assert mlc_format.read_params(tmp_path / "made")


QUICK = ("gemma2", "gemma3", "gpt2", "granite4", "olmo2", "stablelm-12b")
"""Together, these have everything that a family can have; Phi is like StableLM 2 12B and GPT-2."""


def combinations():
    """Every family, quantization and kind of CPU.

    Each is compiled, so `make test` takes those in `QUICK` once, of which one has 8 bits, and
    `make soak` takes all.
    """
    for name in NAMES:
        for quantization in ("q0f32", *families.QUANTIZATIONS):
            for cpu in (None, *cpus()):
                one = "q8f16_1" if name == "gpt2" else "q4f16_1"
                quick = cpu is None and quantization == one and name in QUICK
                marks = () if quick else pytest.mark.soak
                yield pytest.param(
                    name, quantization, cpu, marks=marks, id=f"{name}-{quantization}-{cpu}"
                )


@pytest.mark.parametrize(("name", "quantization", "cpu"), list(combinations()))
def test_logits_alone_and_in_a_batch(name, quantization, cpu, folder_of, cache_dir):
    expected, prompt = golden(name, quantization), families.prompt(name)
    options = {} if cpu is None else {"cpu": cpu}
    executor = executor_for(folder_of(name, quantization), cache_dir, **options)
    alone = run_chunks(executor, prompt, CHUNKS)
    assert alone.shape == expected.shape
    assert np.abs(alone - expected).max() / np.abs(expected).max() < TOLERANCE
    for chunks in ([1] * 84, [17, 15, 1, 1, 50], [83, 1]):
        assert np.array_equal(run_chunks(executor, prompt, chunks), alone)
    assert np.array_equal(run_in_a_batch(executor, prompt), alone)


def traced():
    """Every family on both kinds of kernels; `make test` takes one with most of the operations."""
    for name in NAMES:
        for kv_dtype in ("float16", "float32"):
            quick = (name, kv_dtype) == ("gemma2", "float16")
            yield pytest.param(name, kv_dtype, marks=() if quick else pytest.mark.soak)


@pytest.mark.parametrize(("name", "kv_dtype"), list(traced()))
def test_every_family_is_traced_for_a_gpu(name, kv_dtype, folder_of):
    from mlc_widget.engine.runtimes.tvm.architectures import architecture_of
    from mlc_widget.engine.runtimes.tvm.compile import make_program, trace

    config = json.loads((folder_of(name, "q0f32") / "mlc-chat-config.json").read_text())
    architecture = architecture_of(config["model_type"], config["model_config"])
    there = cuda.CudaTarget("sm_90", "x86_64-unknown-linux-gnu", "x86-64")
    program = make_program(architecture, quantization_of("q4f16_1"), there, kv_dtype)
    made = {v.name_hint for v in trace(program).get_global_vars()}
    assert any(n.startswith("tensor_attention") for n in made) == (kv_dtype == "float16")
    assert any(n.startswith("attention_") for n in made) == (kv_dtype == "float32")


def gpu_combinations():
    """Every family and quantization on tensor cores, and two with float32 pages on other kernels.

    float32 activations take part where weights or pages are in float32.
    """
    for name in NAMES:
        for quantization, kv_dtype in (
            ("q0f16", "float16"), ("q4f16_1", "float16"), ("q8f16_1", "float16"),
            ("q0f32", "float32"), ("q4f16_1", "float32"),
        ):  # fmt: skip
            yield pytest.param(name, quantization, kv_dtype, id=f"{name}-{quantization}-{kv_dtype}")


def check_on_a_gpu(executor, prompt, expected, tolerance):
    """The logits of all positions alone, in other chunks and in a batch."""
    alone = run_chunks(executor, prompt, CHUNKS)
    assert alone.shape == expected.shape
    assert np.linalg.norm(alone - expected) < tolerance * np.linalg.norm(expected)
    for chunks in ([1] * 84, [17, 15, 1, 1, 50], [83, 1]):
        assert np.array_equal(run_chunks(executor, prompt, chunks), alone)
    for others in ({"b": 1}, dict.fromkeys("bcdefgh", 1), {"b": 3, "c": 40}):
        # decode steps of 2 and 8 rows, and steps whose kernels are those of many rows
        stepper, at = Stepper(executor), 0
        for n in [17, *[1] * 15, 30, 22]:
            company = {o: [(i + at) % 60 for i in range(k)] for o, k in others.items()}
            if max(others.values()) > 1 and at not in (0, 32):
                company = {}
            stepper.step(**company, a=prompt[at : at + n])
            at += n
        assert np.array_equal(stepper.all("a"), alone)


@needs_gpu
@pytest.mark.parametrize(("name", "quantization", "kv_dtype"), list(gpu_combinations()))
def test_golden_logits_on_a_gpu(name, quantization, kv_dtype, folder_of, cache_dir):
    executor = executor_for(
        folder_of(name, quantization), cache_dir, device="cuda", kv_cache_dtype=kv_dtype
    )
    reference = golden(name, "q0f32" if quantization == "q0f16" else quantization)
    check_on_a_gpu(
        executor, families.prompt(name), reference, 1e-4 if kv_dtype == "float32" else 5e-3
    )


@needs_gpu
@pytest.mark.parametrize("kv_dtype", ["float16", "float32"])
@pytest.mark.parametrize("head_dim", [64, 80, 144, 160, 256])
def test_heads_of_all_sizes_on_a_gpu(head_dim, kv_dtype, tmp_path, cache_dir):
    """Gemma 2 with windows and soft caps, beside the CPU."""
    config = {**families.CONFIGS["gemma2"], "head_dim": head_dim}
    with np.load(FIXTURES / "gemma2.npz") as file:
        shapes = {key: tuple(shape) for key, shape in json.loads(str(file["shapes"])).items()}
    for key, (outputs, *inputs) in shapes.items():
        if any(part in key for part in ("q_proj", "k_proj", "v_proj")):
            shapes[key] = (outputs // 16 * head_dim, *inputs)
        if "o_proj" in key:
            shapes[key] = (outputs, inputs[0] // 16 * head_dim)
    source = transformers_folder(tmp_path / "source", "gemma2")
    (source / "config.json").write_text(json.dumps(config))
    hf_folders.write_tensors(source / "model.safetensors", families.state("gemma2", shapes))
    with Conversion(source, "q4f16_1") as conversion:
        conversion.run(tmp_path / "made", Tokenizer.from_folder(source), lambda done, total: None)
    prompt = families.prompt("gemma2")
    expected = run_chunks(executor_for(tmp_path / "made", cache_dir), prompt, CHUNKS).copy()
    executor = executor_for(tmp_path / "made", cache_dir, device="cuda", kv_cache_dtype=kv_dtype)
    check_on_a_gpu(executor, prompt, expected, 3e-3)


def opened(path: Path, cache_dir: Path, **options: Any) -> Any:
    """The executor of a model on disk."""
    stored = read_model(path, {"numerics": "faithful"})
    source = ModelSource("m", path, stored.config, None, stored.open_weights)  # type: ignore[arg-type]
    options = TVMOptions.parse({"cache_dir": cache_dir, **options})
    executor, _ = make_executor(source, options, Progress(Reports(), threading.Event()))
    executor.prepare()
    return executor


NOT_IN_GGUF = {
    "gemma3": "the pattern of layers, and the scale of queries",
    "smollm3": "which layers are not rotated",
}
"""What llama.cpp's files of some families do not say, and the tiny models have otherwise."""
GGUF = [
    pytest.param(name, marks=() if name == "phi3" else pytest.mark.soak)
    for name in NAMES
    if name not in NOT_IN_GGUF
]


@pytest.mark.parametrize("name", GGUF)
def test_a_gguf_file_gives_the_same_logits(name, tmp_path, cache_dir):
    file = write_family(tmp_path / f"{name}.gguf", families.CONFIGS[name], state(name))
    alone = run_chunks(opened(file, cache_dir), families.prompt(name), CHUNKS)
    expected = golden(name, "q0f32")
    assert np.abs(alone - expected).max() / np.abs(expected).max() < TOLERANCE


def specs_of(path: Path) -> list[Any]:
    """The attention of each layer of a GGUF file."""
    from mlc_widget.engine.runtimes.tvm.architectures import architecture_of

    config = read_model(path, {}).config
    made: Any = architecture_of(config["model_type"], config["model_config"])
    return [made.attention_spec(layer) for layer in range(made.shape.layers)]


@pytest.mark.parametrize("window", [0, 21, 2047])
def test_a_phi3_gguf_file_has_its_window(window, tmp_path):
    config = {**families.CONFIGS["phi3"], "sliding_window": window}
    file = write_family(tmp_path / "phi3.gguf", config, state("phi3"))
    assert {spec.window for spec in specs_of(file)} == {window or None}


@pytest.mark.parametrize("missing", ["o_proj.bias", "q_proj.bias"])
def test_a_gguf_file_with_half_of_attentions_biases_is_refused(missing, tmp_path):
    weights = {k: v for k, v in state("llama-yarn").items() if not k.endswith(missing)}
    file = write_family(tmp_path / "llama.gguf", families.CONFIGS["llama-yarn"], weights)
    with pytest.raises(UnsupportedModelError, match="only some of attention's projections"):
        specs_of(file)


def deeper_smollm3() -> tuple[dict[str, Any], dict[str, Any]]:
    """SmolLM3 with nine layers, of which llama.cpp does not rotate every fourth."""
    with np.load(FIXTURES / "smollm3.npz") as file:
        shapes = {key: tuple(shape) for key, shape in json.loads(str(file["shapes"])).items()}
    first = {key: shape for key, shape in shapes.items() if ".layers.0." in key}
    for layer in range(2, 9):
        shapes |= {key.replace(".0.", f".{layer}.", 1): shape for key, shape in first.items()}
    flags = [int(layer not in (3, 7)) for layer in range(9)]
    config = {**families.CONFIGS["smollm3"], "num_hidden_layers": 9, "no_rope_layers": flags}
    return config, families.state("smollm3", shapes)


def test_every_fourth_layer_of_a_smollm3_gguf_file_is_not_rotated(tmp_path):
    file = write_family(tmp_path / "smollm3.gguf", *deeper_smollm3())
    assert [spec.rotary for spec in specs_of(file)] == [0, 0, 0, None, 0, 0, 0, None, 0]


@pytest.mark.soak
def test_a_smollm3_gguf_file_gives_the_logits_of_its_source(tmp_path, cache_dir):
    config, weights = deeper_smollm3()
    source = transformers_folder(tmp_path / "source", "smollm3")
    (source / "config.json").write_text(json.dumps(config))
    hf_folders.write_tensors(source / "model.safetensors", weights)
    with Conversion(source, "q0f32") as conversion:
        conversion.run(tmp_path / "made", Tokenizer.from_folder(source), lambda done, total: None)
    prompt = families.prompt("smollm3")
    expected = run_chunks(executor_for(tmp_path / "made", cache_dir), prompt, CHUNKS).copy()
    file = write_family(tmp_path / "smollm3.gguf", config, weights)
    alone = run_chunks(opened(file, cache_dir), prompt, CHUNKS)
    assert np.abs(alone - expected).max() / np.abs(expected).max() < TOLERANCE


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_IN_GGUF])
def test_a_gguf_file_has_the_weights_that_a_gpu_needs(name, tmp_path):
    from mlc_widget.engine.runtimes.tvm.architectures import architecture_of
    from mlc_widget.engine.runtimes.tvm.compile import make_program

    file = write_family(tmp_path / f"{name}.gguf", families.CONFIGS[name], state(name))
    stored = read_model(file, {})
    kind, config = (stored.config[key] for key in ("model_type", "model_config"))
    there = cuda.CudaTarget("sm_90", "x86_64-unknown-linux-gnu", "x86-64")
    halves = quantization_of("q0f16")
    program = make_program(architecture_of(kind, config), halves, there, "float16")
    check_weights(program.parameters, FloatWeights(stored.open_weights()))


@needs_gpu
@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_IN_GGUF])
def test_a_gguf_file_gives_the_same_logits_on_a_gpu(name, tmp_path, cache_dir):
    file = write_family(tmp_path / f"{name}.gguf", families.CONFIGS[name], state(name))
    executor = opened(file, cache_dir, device="cuda", kv_cache_dtype="float16")
    check_on_a_gpu(executor, families.prompt(name), golden(name, "q0f32"), 5e-3)


def test_mlcs_own_folder_of_gemma3_is_read(folder_of, tmp_path, cache_dir):
    """MLC keeps the fields in text_config, with names of its own, and those it does not know."""
    folder = Path(shutil.copytree(folder_of("gemma3", "q4f16_1"), tmp_path / "mlc"))
    file = folder / "mlc-chat-config.json"
    config = json.loads(file.read_text())
    inner = config["model_config"]
    more = ("rope_local_base_freq", "sliding_window_pattern", "query_pre_attn_scalar")
    kwargs = {key: inner.pop(key) for key in more}
    vocab = inner.pop("vocab_size")
    config["model_config"] = {
        "text_config": {**inner, "kwargs": kwargs}, "vocab_size": vocab, "kwargs": {},
    }  # fmt: skip
    config["model_type"] = "gemma3"
    file.write_text(json.dumps(config))
    names = mlc_format.read_params(folder)
    assert "language_model.model.layers.0.self_attn.q_proj.q_weight" in names
    alone = run_chunks(executor_for(folder, cache_dir), families.prompt("gemma3"), CHUNKS)
    expected = golden("gemma3", "q4f16_1")
    assert np.abs(alone - expected).max() / np.abs(expected).max() < TOLERANCE
