"""Importance of inputs, measured with the tests' tiny models, and what it does to their codes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.store.conversion import Conversion
from mlc_widget.engine.store.families import common_config
from mlc_widget.engine.store.float_model import FloatModel
from mlc_widget.engine.store.importance import ImportanceRun, calibration_text
from mlc_widget.engine.text.tokenizer import Tokenizer

from . import hf_folders
from .family_folders import golden, state, transformers_folder

sys.path.append(str(Path(__file__).parents[3] / "tools"))
import families
import mlc_format


def run_of(conversion: Conversion, on_bytes=lambda nbytes: None) -> ImportanceRun:
    return conversion._importance_run(on_bytes)


def float_model(conversion: Conversion) -> FloatModel:
    return FloatModel(
        conversion._model,
        conversion._parameters,
        conversion._kind,
        conversion._model_config,
        lambda nbytes: None,
        lambda name, inputs: None,
    )


@pytest.mark.parametrize("model_type", hf_folders.NAMES)
def test_the_float_model_is_computed_as_transformers_does(tmp_path, model_type):
    folder = hf_folders.make(tmp_path / "model", model_type)
    ids = np.load(hf_folders.FIXTURES / model_type / "prompt.npy").tolist()
    weights = hf_folders.tensors_of(model_type)
    output = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    with Conversion(folder, "q0f32") as conversion:
        found = float_model(conversion).hidden_states(ids) @ output.astype(np.float32).T
    with np.load(hf_folders.FIXTURES / model_type / "q0f32.npz") as file:
        expected = file["logits"]
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("name", sorted(families.CONFIGS))
def test_the_float_model_of_every_family(tmp_path, name):
    folder = transformers_folder(tmp_path / name, name)
    weights, config = state(name), common_config(families.CONFIGS[name])
    outputs = ("lm_head.weight", "embed_out.weight", "transformer.wte.weight")
    output = next((weights[n] for n in outputs if n in weights), None)
    if output is None:
        output = weights["model.embed_tokens.weight"]
    with Conversion(folder, "q0f32") as conversion:
        found = float_model(conversion).hidden_states(families.prompt(name)) @ output.T
    found = (found + weights.get("lm_head.bias", 0)) / config.get("logits_scaling", 1)
    if cap := config.get("final_logit_softcapping"):
        found = np.tanh(found / cap) * cap
    expected = golden(name, "q0f32")
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", sorted(families.CONFIGS))
def test_every_matrix_of_every_family_is_measured(tmp_path, name):
    counted = []
    with Conversion(transformers_folder(tmp_path / name, name), "q4f16_1") as conversion:
        run = run_of(conversion, counted.append)
        found = run.measure(families.prompt(name)[:20])
        embeddings = ("embed_tokens", "embed_in", "wte", "wpe", "embd")
        matrices = {p.name: p.shape[1] for p in conversion._parameters if len(p.shape) == 2}
        wanted = {n for n in matrices if not any(part in n for part in embeddings)}
    assert wanted <= found.keys() <= matrices.keys()
    assert {name: len(inputs) for name, inputs in found.items()} == {n: matrices[n] for n in found}
    assert sum(counted) == run.nbytes


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_each_matrix_gets_the_mean_square_of_its_inputs(tmp_path, model_type):
    folder = hf_folders.make(tmp_path / "model", model_type)
    counted = []
    with Conversion(folder, "q4f16_1") as conversion:
        run = run_of(conversion, counted.append)
        found = run.measure([5, 6, 7, 8])
        matrices = [p for p in conversion._parameters if len(p.shape) == 2]
        tied = conversion._model_config["tie_word_embeddings"]
        wanted = [p for p in matrices if tied or p.name != "model.embed_tokens.weight"]
        assert {p.name: found[p.name].shape for p in wanted} == {
            p.name: (p.shape[1],) for p in wanted
        }
        assert sum(counted) == run.nbytes
    for weights in found.values():
        assert weights.dtype == np.float32
        assert weights.min() >= 0.02
        assert np.isclose(weights.mean(), 1.02, atol=1e-4)


def errors_of(folder: Path, made: Path) -> np.ndarray:
    """(inputs,) mean square errors of the first MLP's weights, which were stored with 4 bits."""
    expected, found = hf_folders.tensors_of("llama"), mlc_format.read_params(made)
    stem = "model.layers.0.mlp.gate_up_proj"
    codes, scales = found[f"{stem}.q_weight"], found[f"{stem}.q_scale"].astype(np.float32)
    gate, up = (expected[f"model.layers.0.mlp.{n}_proj.weight"] for n in ("gate", "up"))
    value = np.concatenate((gate, up)).astype(np.float32)
    floats = mlc_format.dequantize_group(codes, scales, bits=4)[:, : value.shape[1]]
    return ((floats - value) ** 2).mean(axis=0)


def test_errors_are_smaller_where_inputs_are_large(tmp_path, monkeypatch):
    folder = hf_folders.make(tmp_path / "model")
    with Conversion(folder, "q4f16_1") as conversion:
        vocabulary = Tokenizer.from_folder(folder)
        measured = conversion._importance(vocabulary, lambda done, total: None)
        weights = measured["model.layers.0.mlp.gate_up_proj.weight"]
        conversion.run(tmp_path / "with", vocabulary, lambda done, total: None)
        monkeypatch.setattr(Conversion, "_importance", lambda *args: {})
        conversion.run(tmp_path / "without", vocabulary, lambda done, total: None)
    better, plain = (errors_of(folder, tmp_path / name) for name in ("with", "without"))
    assert (weights * better).sum() < 0.97 * (weights * plain).sum()


def test_progress_counts_what_is_read_twice(tmp_path):
    folder = hf_folders.make(tmp_path / "model")
    seen = []
    with Conversion(folder, "q4f16_1") as conversion:
        vocabulary = Tokenizer.from_folder(folder)
        conversion.run(tmp_path / "out", vocabulary, lambda *counts: seen.append(counts))
        total = conversion.source_bytes
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_weights_without_a_number_are_told_as_such(tmp_path):
    folder = hf_folders.make(tmp_path / "model")
    tensors = hf_folders.tensors_of("llama")
    tensors["model.layers.0.self_attn.o_proj.weight"][0, 0] = np.nan
    hf_folders.write_tensors(folder / "model.safetensors", tensors)
    with Conversion(folder, "q4f16_1") as conversion:
        run = run_of(conversion)
        found = run.measure([1, 2])
        assert "model.layers.0.self_attn.qkv_proj.weight" in found
        assert "model.layers.0.mlp.gate_up_proj.weight" not in found
        with pytest.raises(Exception, match=r"o_proj.weight cannot be stored"):
            conversion.run(tmp_path / "out", Tokenizer.from_folder(folder), lambda *a: None)


def test_another_text_makes_another_model(tmp_path):
    folder = hf_folders.make(tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text("one two three " * 100)

    def name(quantization, calibration=None):
        with Conversion(folder, quantization, calibration) as conversion:
            return conversion.name

    assert name("q4f16_1") != name("q4f16_1", text)
    assert name("q8f16_1") == name("q8f16_1", text)


@pytest.mark.parametrize(
    ("content", "match"),
    [(None, "No such file"), (b"", "empty"), (b"\xff\xfe", "utf-8"), (b"a" * (2 << 20), "1 MiB")],
    ids=["missing", "empty", "no text", "too large"],
)
def test_what_is_no_text_is_told(tmp_path, content, match):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadRequestError, match=match):
        calibration_text(path)
