"""Whole models from GGUF files, against a decoder in float64 of the files' own weights."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.engine.runtimes.base import ModelSource
from mlc_widget.engine.runtimes.tvm.loading import make_executor
from mlc_widget.engine.runtimes.tvm.options import TVMOptions
from mlc_widget.engine.runtimes.tvm.progress import Progress
from mlc_widget.engine.runtimes.tvm.target import host_target
from mlc_widget.engine.store.formats.ggml_types import TYPES_BY_NAME, dequantize
from mlc_widget.engine.store.stored_model import read_model
from tests.engine.store.formats.gguf_writer import write

from .conftest import Reports, Stepper, run_chunks
from .emulation import Decoder

sys.path.append(str(Path(__file__).parents[4] / "tools"))
import wide

CHUNKS, TOKENS = [30, 30, 24], 84
_QUANTIZED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16", "F32")
"""What the `gguf` package can write."""
_K_SCALES = {"Q4_K": (4e-4, 3e-3), "Q6_K": (5e-5,)}
MIXES = {
    "Q4_0": {},
    "Q8_0": {},
    "F16": {},
    "Q4_K_M": {"attn_v": "Q6_K", "ffn_down": "Q6_K", "token_embd": "Q8_0", "": "Q4_K"},
    "floats among codes": {"attn_q": "F16", "ffn_up": "BF16", "token_embd": "F32", "": "Q5_1"},
}
QUICK = ("llama", "fast")
NAMES = {
    "input_layernorm": ["attn_norm"],
    "post_attention_layernorm": ["ffn_norm"],
    "self_attn.o_proj": ["attn_output"],
    "self_attn.q_norm": ["attn_q_norm"],
    "self_attn.k_norm": ["attn_k_norm"],
    "mlp.gate_up_proj": ["ffn_gate", "ffn_up"],
    "mlp.down_proj": ["ffn_down"],
}


def quantized(name: str, rows: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
    """(rows, bytes) uint8 of a type; of a K type other weights of about the same size."""
    if name in _QUANTIZED:
        kind = gguf.GGMLQuantizationType(TYPES_BY_NAME[name].id)
        return np.ascontiguousarray(gguf.quants.quantize(rows, kind)).view(np.uint8)
    kind, random = TYPES_BY_NAME[name], np.random.default_rng(seed)
    count, inputs = rows.shape
    blocks = random.integers(0, 256, (count, inputs // 256, kind.nbytes), dtype=np.uint8)
    at = {"Q4_K": (0, 2), "Q6_K": (208,)}[name]
    for start, scale in zip(at, _K_SCALES[name], strict=True):
        values = np.full((count, inputs // 256, 1), scale, np.float16)
        blocks[:, :, start : start + 2] = values.view(np.uint8)
    return blocks.reshape(count, -1)


def paired(rows: np.ndarray[Any, Any], head: int) -> np.ndarray[Any, Any]:
    """Rows of heads as llama.cpp's converter puts them into `llama` files."""
    shape = rows.shape
    return rows.reshape(-1, 2, head // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


class File:
    """A model's file, and its weights under MLC's names as floats."""

    def __init__(self, path: Path, model_type: Any, mix: str) -> None:
        self.config = c = wide.WIDE[model_type]
        self.params: dict[str, np.ndarray[Any, Any]] = {}
        self.tensors: dict[str, Any] = {}
        self._types, self._default = MIXES[mix], MIXES[mix].get("", mix)
        self._head = c["head_dim"] if model_type == "llama" else 0
        q, kv = (c[f"num_{n}_heads"] * c["head_dim"] for n in ("attention", "key_value"))
        for name, value in wide.params(model_type).items():
            layer, _, kind = name.rpartition(".")
            parts = layer.split(".")
            if layer == "lm_head":
                prefix, stems = "", ["output"]
            elif parts[1] == "layers":
                prefix, inside = f"blk.{parts[2]}.", ".".join(parts[3:])
                stems = NAMES.get(inside, ["attn_q", "attn_k", "attn_v"])
            else:
                prefix = ""
                stems = [{"embed_tokens": "token_embd", "norm": "output_norm"}.get(parts[1], "")]
            cuts = {3: [q, q + kv], 2: [c["intermediate_size"]], 1: []}[len(stems)]
            kept = [
                self._add(f"{prefix}{stem}.{kind}", stem, part)
                for stem, part in zip(stems, np.split(value, cuts), strict=True)
            ]
            self.params[name] = np.concatenate(kept)
        self.path = write(path, self.tensors, self.fields(model_type))

    def _add(self, name: str, stem: str, part: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        turned = self._head and stem in ("attn_q", "attn_k")
        if part.ndim == 1:
            data = paired(part, self._head) if turned else part
            self.tensors[name] = (TYPES_BY_NAME["F32"], data.reshape(-1).view(np.uint8))
            return part
        type_name = self._types.get(stem, self._default)
        kind = TYPES_BY_NAME[type_name]
        data = quantized(type_name, part, len(self.tensors))
        self.tensors[name] = (kind, paired(data, self._head) if turned else data)
        return dequantize(kind, data, part.shape[1])

    def fields(self, model_type: str) -> dict[str, Any]:
        c, arch = self.config, model_type
        letters = [chr(ord("!") + i) for i in range(c["vocab_size"] - 4)]
        tokens = ["<pad>", "<|im_start|>", "<|im_end|>", *letters, '!"']
        return {
            "general.architecture": arch,
            f"{arch}.context_length": c["context_window_size"],
            f"{arch}.embedding_length": c["hidden_size"],
            f"{arch}.block_count": c["num_hidden_layers"],
            f"{arch}.feed_forward_length": c["intermediate_size"],
            f"{arch}.attention.head_count": c["num_attention_heads"],
            f"{arch}.attention.head_count_kv": c["num_key_value_heads"],
            f"{arch}.attention.key_length": c["head_dim"],
            f"{arch}.attention.layer_norm_rms_epsilon": c["rms_norm_eps"],
            f"{arch}.rope.freq_base": float(
                c.get("rope_theta") or c["position_embedding_base"]
            ),
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 3),
            "tokenizer.ggml.merges": ["! \""],
            "tokenizer.ggml.eos_token_id": 2,
        }  # fmt: skip

    def executor(self, cache_dir: Path, numerics: str) -> Any:
        stored = read_model(self.path, {"numerics": numerics})
        source = ModelSource("m", self.path, stored.config, None, stored.open_weights)  # type: ignore[arg-type]
        options = TVMOptions.parse({"cache_dir": cache_dir})
        executor, _ = make_executor(source, options, Progress(Reports(), threading.Event()))
        executor.prepare()
        return executor


def combinations() -> list[Any]:
    """A mix of types on the architecture whose rows are stored in another order; soak has all.

    Each is compiled. test_families.py has a GGUF file in the faithful mode, and test_blocks.py the
    kernels of both modes.
    """
    found = []
    for model_type in ("llama", "qwen2", "qwen3"):
        for mix in MIXES:
            for numerics in ("faithful", "fast"):
                quick = mix == "Q4_K_M" and (model_type, numerics) == QUICK
                name = f"{model_type}-{mix}-{numerics}"
                marks = () if quick else pytest.mark.soak
                found.append(pytest.param(model_type, mix, numerics, marks=marks, id=name))
    return found


def error(logits: Any, expected: Any) -> float:
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("model_type", "mix", "numerics"), combinations())
def test_logits_at_every_position(model_type, mix, numerics, tmp_path, cache_dir):
    if numerics == "fast" and not host_target().isa.dot:
        pytest.skip("this CPU has no integer dot product")
    file = File(tmp_path / "model.gguf", model_type, mix)
    prompt = wide.prompt(model_type, TOKENS)
    expected = Decoder(file.params, file.config).logits(prompt)
    executor = file.executor(cache_dir, numerics)
    alone = run_chunks(executor, prompt, CHUNKS)
    stepper = Stepper(executor)
    for start, count in ((0, 17), (17, 1), (18, 40), (58, 26)):
        stepper.step(other=[5, 6, 7], a=prompt[start : start + count])
    assert np.array_equal(stepper.all("a"), alone)
    if numerics == "faithful":
        assert error(alone, expected) < 1e-4
        return
    # Floats among what is multiplied keep all activations floats.
    rounded = mix in ("Q4_0", "Q8_0", "Q4_K_M")
    defined = Decoder(file.params, file.config, fast=rounded).logits(prompt)
    # Keys and values are rounded to float16, and what lies between two integers may go astray.
    assert np.median(np.abs(alone - defined)) / np.abs(defined).max() < 0.01
    assert error(alone, expected) < 0.1


def test_what_is_not_in_the_file_is_named(tmp_path):
    file = File(tmp_path / "model.gguf", "llama", "Q8_0")
    tensors = {k: v for k, v in file.tensors.items() if k != "blk.1.ffn_up.weight"}
    write(tmp_path / "less.gguf", tensors, file.fields("llama"))
    stored = read_model(tmp_path / "less.gguf", {})
    with pytest.raises(ModelFormatError, match=r"no tensor blk\.1\.ffn_up\.weight"):
        stored.open_weights().types_of("model.layers.1.mlp.gate_up_proj")


def test_an_architecture_that_does_not_run_is_named(tmp_path):
    file = File(tmp_path / "model.gguf", "llama", "Q8_0")
    write(tmp_path / "other.gguf", file.tensors, file.fields("mamba"))
    with pytest.raises(UnsupportedModelError, match="mamba"):
        read_model(tmp_path / "other.gguf", {})
