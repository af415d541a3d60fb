"""A GGUF file's model in numpy and float32: the definition that the engines are compared with.

It is written from llama.cpp's conventions, not from our runtime: tensors by their names in the
file, weights as `dequantize` gives them, and heads rotated in neighbouring pairs where the file has
them so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mlc_widget.engine.store.formats.ggml_types import dequantize
from mlc_widget.engine.store.formats.gguf_file import GGUFModel

Array = np.ndarray[Any, np.dtype[np.float32]]


class Forward:
    """A model of the architecture llama, qwen2, qwen3, gemma2 or gemma3, of one sequence.

    Attributes:
        begin: The tokens with which every text begins.
        chat: Whether the file has a chat template.
    """

    def __init__(self, path: Path) -> None:
        self.tensors: dict[str, Array] = {}
        with GGUFModel(path) as model:
            self.arch = model.fields["general.architecture"]
            self.chat = "tokenizer.chat_template" in model.fields
            begins = model.fields.get("tokenizer.ggml.add_bos_token") is True
            self.begin = [model.fields["tokenizer.ggml.bos_token_id"]] if begins else []
            self.fields = {
                key.removeprefix(f"{self.arch}."): value for key, value in model.fields.items()
            }
            for name, (file, tensor) in model.tensors.items():
                rows = int(np.prod(tensor.shape[:-1]))
                data = file.read_rows(tensor, 0, rows)
                self.tensors[name] = dequantize(tensor.kind, data, tensor.shape[-1])
        self.heads = self.fields["attention.head_count"]
        self.kv_heads = self.fields.get("attention.head_count_kv", self.heads)
        size = self.fields["embedding_length"] // self.heads
        self.head_dim = self.fields.get("attention.key_length", size)

    def logits(self, ids: list[int]) -> Array:
        """(len(ids), vocab)."""
        x = self.tensors["token_embd.weight"][ids]
        gemma = self.arch.startswith("gemma")
        if gemma:
            x = x * np.float32(self.fields["embedding_length"] ** 0.5)
        for i in range(self.fields["block_count"]):
            block = f"blk.{i}."
            h = self._attention(block, self._norm(x, f"{block}attn_norm"), self._spans(i))
            x = x + self._normed(h, f"{block}post_attention_norm")
            h = self._norm(x, f"{block}ffn_norm")
            gate, up = self._linear(h, f"{block}ffn_gate"), self._linear(h, f"{block}ffn_up")
            gate = _gelu(gate) if gemma else gate / (1 + np.exp(-gate))
            x = x + self._normed(
                self._linear(gate * up, f"{block}ffn_down"), f"{block}post_ffw_norm"
            )
        output = "output" if "output.weight" in self.tensors else "token_embd"
        return _capped(
            self._linear(self._norm(x, "output_norm"), output),
            self.fields.get("final_logit_softcapping"),
        )

    def _spans(self, layer: int) -> tuple[float, float, int]:
        """A layer's rotary base, the factor of its positions, and its window."""
        base, scale, everything = self.fields.get("rope.freq_base", 10000.0), 1.0, 1 << 30
        window = self.fields.get("attention.sliding_window", everything)
        if self.arch == "gemma2":
            return base, scale, everything if layer % 2 else window
        if self.arch != "gemma3":
            return base, scale, everything
        if (layer + 1) % 6:
            return self.fields.get("rope.freq_base_swa", 10000.0), 1.0, window
        return base, 1 / self.fields.get("rope.scaling.factor", 1.0), everything

    def _rotation(self, positions: int, base: float, scale: float) -> tuple[Array, Array]:
        exponent = np.arange(0, self.head_dim, 2, dtype=np.float64) / self.head_dim
        frequency = base**-exponent
        if "rope_freqs.weight" in self.tensors:
            frequency = frequency / self.tensors["rope_freqs.weight"].reshape(-1)
        angle = np.arange(positions)[:, None] * frequency * scale
        return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)

    def _rotated(self, x: Array, rotation: tuple[Array, Array]) -> Array:
        """(heads, n, head_dim)."""
        cos, sin = rotation
        if self.arch == "llama":  # neighbouring pairs
            a, b = x[..., 0::2], x[..., 1::2]
            out = np.empty_like(x)
            out[..., 0::2], out[..., 1::2] = a * cos - b * sin, a * sin + b * cos
            return out
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    def _attention(self, block: str, x: Array, spans: tuple[float, float, int]) -> Array:
        n, d = len(x), self.head_dim
        base, scale, window = spans
        rotation = self._rotation(n, base, scale)
        q, k, v = (
            self._linear(x, f"{block}attn_{part}").reshape(n, -1, d).transpose(1, 0, 2)
            for part in "qkv"
        )
        if f"{block}attn_q_norm.weight" in self.tensors:
            q, k = self._norm(q, f"{block}attn_q_norm"), self._norm(k, f"{block}attn_k_norm")
        q, k = self._rotated(q, rotation), self._rotated(k, rotation)
        k, v = (np.repeat(t, self.heads // self.kv_heads, axis=0) for t in (k, v))
        score = _capped(
            q @ k.transpose(0, 2, 1) / np.float32(d**0.5),
            self.fields.get("attn_logit_softcapping"),
        )
        behind = np.arange(n)[:, None] - np.arange(n)
        score[:, (behind < 0) | (behind >= window)] = -np.inf
        weight = np.exp(score - score.max(axis=2, keepdims=True))
        y = weight / weight.sum(axis=2, keepdims=True) @ v
        return self._linear(y.transpose(1, 0, 2).reshape(n, -1), f"{block}attn_output")

    def _linear(self, x: Array, name: str) -> Array:
        y = x @ self.tensors[f"{name}.weight"].T
        bias = self.tensors.get(f"{name}.bias")
        return y if bias is None else y + bias.reshape(-1)

    def _normed(self, x: Array, name: str) -> Array:
        """The output of a block, normalized if the file has a norm for it."""
        return self._norm(x, name) if f"{name}.weight" in self.tensors else x

    def _norm(self, x: Array, name: str) -> Array:
        epsilon = np.float32(self.fields["attention.layer_norm_rms_epsilon"])
        scale = np.sqrt((x * x).mean(axis=-1, keepdims=True) + epsilon)
        return x / scale * self.tensors[f"{name}.weight"].reshape(-1)


def _gelu(x: Array) -> Array:
    """The approximation with tanh."""
    return x / 2 * (1 + np.tanh(np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044715) * x**3)))


def _capped(x: Array, cap: float | None) -> Array:
    return x if cap is None else cap * np.tanh(x / cap)
