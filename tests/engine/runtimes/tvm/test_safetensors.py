"""Logits of models that were converted from safetensors: against transformers', and float64."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mlc_widget.engine.store.conversion import Conversion
from mlc_widget.engine.text.tokenizer import Tokenizer
from tests.engine.store import hf_folders

from .conftest import executor_for, run_chunks
from .emulation import Decoder

sys.path.append(str(Path(__file__).parents[4] / "tools"))
import mlc_format

CHUNKS = [30, 30, 24]


def converted(folder: Path, quantization: str) -> Path:
    made = folder.parent / f"{folder.name}-{quantization}"
    with Conversion(folder, quantization) as conversion:
        conversion.run(made, Tokenizer.from_folder(folder), lambda done, total: None)
    return made


def prompt_of(model_type: str) -> list[int]:
    ids: list[int] = np.load(hf_folders.FIXTURES / model_type / "prompt.npy").tolist()
    return ids


def error(logits, expected):
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


@pytest.mark.soak  # that the weights are the fixtures' own, tests/engine/store tests
@pytest.mark.parametrize("quantization", ["q0f16", "q0f32"])
@pytest.mark.parametrize("model_type", hf_folders.NAMES)
def test_floats_give_transformers_logits(tmp_path, model_type, quantization, cache_dir):
    folder = hf_folders.make(tmp_path / model_type, model_type, dtype="BF16")
    executor = executor_for(converted(folder, quantization), cache_dir)
    with np.load(hf_folders.FIXTURES / model_type / f"{quantization}.npz") as file:
        expected = file["logits"]
    assert error(run_chunks(executor, prompt_of(model_type), CHUNKS), expected) < 1e-4


@pytest.mark.soak  # test_families.py has negative scales, and test_fast.py's kernels all codes
@pytest.mark.parametrize("model_type", hf_folders.NAMES)
def test_codes_with_searched_scales_are_computed_with(tmp_path, model_type, cache_dir):
    """Scales are negative in places, and all 16 codes are used."""
    made = converted(hf_folders.make(tmp_path / model_type, model_type), "q4f16_1")
    stored, params, config = mlc_format.read_params(made), {}, {}
    for name, value in stored.items():
        stem, _, kind = name.rpartition(".")
        if kind == "q_weight":
            scales = stored[f"{stem}.q_scale"]
            assert (scales < 0).any()
            assert (scales > 0).any()
            assert ((value[:, :, None] >> np.arange(0, 32, 4, dtype=np.uint32)) & 15).max() == 15
            params[f"{stem}.weight"] = mlc_format.dequantize_group(value, scales.astype(np.float32))
        elif kind != "q_scale":
            params[name] = value
    config = hf_folders.mlc_config(made)
    expected = Decoder(params, config).logits(prompt_of(model_type))
    logits = run_chunks(executor_for(made, cache_dir), prompt_of(model_type), CHUNKS)
    assert error(logits, expected) < 1e-4
