"""The decoders in numpy and float64, with or without the fast mode's rounding of activations.

Written from the models' definitions, not from the kernels. `quantised` is the one rule that both
share: what `kernels.quantize` documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlc_widget.engine.store.rope import Rope

Array = np.ndarray[Any, np.dtype[np.float64]]


def quantised(x: Array) -> Array:
    """(rows, features) with each group of 32 features rounded to 8 bits of its largest."""
    groups = x.reshape(len(x), -1, 32)
    most = np.abs(groups).max(axis=2, keepdims=True)
    steps = np.rint(groups * (127 / np.where(most > 0, most, np.inf)))
    return (steps * (most / 127)).reshape(x.shape)


class Decoder:
    """A model of one sequence.

    Args:
        params: Floats under MLC's names.
        config: MLC's `model_config`.
        fast: Round what linear layers read.
    """

    def __init__(
        self, params: Mapping[str, Any], config: Mapping[str, Any], *, fast: bool = False
    ) -> None:
        self.params = {name: value.astype(np.float64) for name, value in params.items()}
        self.config, self.fast = config, fast
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.head_dim = config["head_dim"]

    def logits(self, ids: list[int]) -> Array:
        """(len(ids), vocab)."""
        theta = self.config.get("rope_theta") or self.config["position_embedding_base"]
        rope = Rope(theta, self.head_dim, self.config.get("rope_scaling"))
        angle = np.arange(len(ids))[:, None] * rope.frequencies().astype(np.float64)
        rotation = np.cos(angle), np.sin(angle)
        x = self.params["model.embed_tokens.weight"][ids]
        for i in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{i}."
            x = x + self.attention(
                layer + "self_attn.", self.norm(x, f"{layer}input_layernorm"), rotation
            )
            h = self.linear(
                self.norm(x, f"{layer}post_attention_layernorm"), f"{layer}mlp.gate_up_proj"
            )
            gate, up = np.split(h, 2, axis=1)
            x = x + self.linear(gate / (1 + np.exp(-gate)) * up, f"{layer}mlp.down_proj")
        tied = "lm_head.weight" not in self.params
        return self.linear(self.norm(x, "model.norm"), "model.embed_tokens" if tied else "lm_head")

    def attention(self, layer: str, x: Array, rotation: tuple[Array, Array]) -> Array:
        """Causal attention, over the sliding window if there is one."""
        name = "qkv_proj" if f"{layer}qkv_proj.weight" in self.params else "c_attn"
        n, d = len(x), self.head_dim
        qkv = self.linear(x, layer + name).reshape(n, -1, d).transpose(1, 0, 2)
        q, k, v = np.split(qkv, [self.heads, self.heads + self.kv_heads])
        if f"{layer}q_norm.weight" in self.params:
            q, k = self.norm(q, f"{layer}q_norm"), self.norm(k, f"{layer}k_norm")
        q, k = (self.rotated(t, rotation) for t in (q, k))
        k, v = (np.repeat(t, self.heads // self.kv_heads, axis=0) for t in (k, v))
        behind = np.arange(n)[:, None] - np.arange(n)
        window = self.config.get("sliding_window_size") or n
        score = np.where(
            (behind >= 0) & (behind < window), q @ k.transpose(0, 2, 1) / d**0.5, -np.inf
        )
        weight = np.exp(score - score.max(axis=2, keepdims=True))
        y = weight / weight.sum(axis=2, keepdims=True) @ v
        return self.linear(y.transpose(1, 0, 2).reshape(n, -1), f"{layer}o_proj")

    def linear(self, x: Array, name: str) -> Array:
        """x · Wᵀ (+ bias)."""
        y = (quantised(x) if self.fast else x) @ self.params[f"{name}.weight"].T
        return y + self.params.get(f"{name}.bias", 0.0)

    def norm(self, x: Array, name: str) -> Array:
        """RMSNorm over the last axis."""
        eps = self.config["rms_norm_eps"]
        return (
            x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * self.params[f"{name}.weight"]
        )

    @staticmethod
    def rotated(x: Array, rotation: tuple[Array, Array]) -> Array:
        """(heads, n, head_dim), halves rotated against each other."""
        a, b = np.split(x, 2, axis=2)
        cos, sin = rotation
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=2)
