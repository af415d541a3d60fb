"""The forward pass of all families in numpy, from transformers' files.

It is for a few hundred tokens of one text. Weights are read in pieces, and none is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mlc_widget.engine.store.families import FAMILIES, family_of, renamed
from mlc_widget.engine.store.formats import hf_weights
from mlc_widget.engine.store.formats.hf_folder import SafetensorsModel
from mlc_widget.engine.store.formats.hf_weights import Parameter
from mlc_widget.engine.store.rope import Rope

Array = npt.NDArray[Any]

_EMBEDDING: Final = "model.embed_tokens.weight"
_POSITIONS: Final = "model.embed_positions.weight"
_OUTPUT: Final = "lm_head.weight"
_ROTATED: Final = {"phi": 0.5, "stablelm": 0.25}
"""The share of a head's dimensions that is rotated, where files may leave it out."""
_GELU: Final = 0.7978845608028654  # sqrt(2 / pi)


class FloatModel:
    """One model.

    Args:
        model: The model's files, checked.
        parameters: Its parameters.
        kind: transformers' `model_type`.
        config: MLC's ``model_config``.
        on_bytes: Called with the number of bytes that were read.
        on_inputs: Called with the name of each matrix, and its inputs (tokens, inputs).
    """

    def __init__(
        self,
        model: SafetensorsModel,
        parameters: Sequence[Parameter],
        kind: str,
        config: Mapping[str, Any],
        on_bytes: Callable[[int], object],
        on_inputs: Callable[[str, Array], object],
    ) -> None:
        self._model, self._kind, self._config = model, kind, config
        self._on_bytes, self._on_inputs = on_bytes, on_inputs
        self._family = family_of(kind, config)
        self._parameters = {p.name: p for p in parameters}
        self._activation = _activation(config)
        self._ropes = _ropes(kind, config)

    @property
    def nbytes(self) -> int:
        """The number of bytes of weights to read, without those of the first and last layer."""
        ends = (_EMBEDDING, _POSITIONS, _OUTPUT, "lm_head.bias")
        names = {renamed(name, self._family.mlc) for name in ends}
        read = [p for p in self._parameters.values() if p.name not in names]
        return hf_weights.source_bytes(self._model, read)

    def hidden_states(self, ids: Sequence[int]) -> Array:
        """(len(ids), hidden_size) float32: the inputs of the output layer."""
        config = self._config
        self._tables = [rope.table(len(ids)) for rope in self._ropes]
        x = np.concatenate([self._row(_EMBEDDING, i) for i in ids])
        if self._family.positions:
            x = x + np.concatenate([self._row(_POSITIONS, i) for i in range(len(ids))])
        x = x * np.float32(self._embedding_scale)
        for i in range(config["num_hidden_layers"]):
            x = self._layer(i, x)
        x = self._norm("model.norm", x)
        output = _EMBEDDING if config["tie_word_embeddings"] else _OUTPUT
        self._on_inputs(renamed(output, self._family.mlc), x)
        return x

    @property
    def _embedding_scale(self) -> float:
        if self._kind.startswith("gemma"):
            return math.sqrt(self._config["hidden_size"])
        return float(self._config.get("embedding_multiplier", 1.0))

    def _layer(self, i: int, x: Array) -> Array:
        layer, norms = f"model.layers.{i}.", self._family.norms
        scale = np.float32(self._config.get("residual_multiplier", 1.0))
        before = "input_layernorm" in norms  # OLMo 2 has norms after its blocks only
        h = self._norm(f"{layer}input_layernorm", x) if before else x
        attended = self._attention(i, f"{layer}self_attn.", h)
        if "post_attention_layernorm" not in norms:  # Phi: both blocks have the same input
            return x + attended + self._mlp(f"{layer}mlp.", h)
        if "post_feedforward_layernorm" in norms:
            x = x + self._norm(f"{layer}post_attention_layernorm", attended)
            between = "pre_feedforward_layernorm" in norms
            h = self._norm(f"{layer}pre_feedforward_layernorm", x) if between else x
            return x + self._norm(
                f"{layer}post_feedforward_layernorm", self._mlp(f"{layer}mlp.", h)
            )
        y = x + scale * attended
        parallel = self._kind == "gpt_neox" and self._config["use_parallel_residual"]
        h = self._norm(f"{layer}post_attention_layernorm", x if parallel else y)
        return y + scale * self._mlp(f"{layer}mlp.", h)

    def _mlp(self, prefix: str, x: Array) -> Array:
        if not self._family.gated:
            h = self._activation(self._linear(f"{prefix}up_proj", x))
        else:
            gate, up = np.split(self._linear(f"{prefix}gate_up_proj", x), 2, axis=1)
            h = self._activation(gate) * up
        return self._linear(f"{prefix}down_proj", h)

    def _attention(self, layer: int, prefix: str, x: Array) -> Array:
        config, count = self._config, len(x)
        heads, kv, d = (
            config[name] for name in ("num_attention_heads", "num_key_value_heads", "head_dim")
        )
        if self._family.apart:
            parts = [self._linear(f"{prefix}{name}_proj", x) for name in "qkv"]
        else:
            qkv = self._linear(f"{prefix}{self._family.qkv}", x)
            parts = np.split(qkv, [heads * d, (heads + kv) * d], axis=1)
        q, k, v = parts
        if self._family.head_norms == "together":
            q, k = self._norm(f"{prefix}q_norm", q), self._norm(f"{prefix}k_norm", k)
        q, k, v = (part.reshape(count, -1, d) for part in (q, k, v))
        if self._family.head_norms in ("each", "own"):
            q, k = self._norm(f"{prefix}q_norm", q), self._norm(f"{prefix}k_norm", k)
        q, k = self._rotated(layer, q), self._rotated(layer, k)
        scale, cap = np.float32(self._scale), config.get("attn_logit_softcapping")
        hidden = self._hidden(layer, count)
        out = np.empty((count, heads, d), np.float32)
        for head in range(heads):
            of = head * kv // heads
            scores = q[:, head] @ k[:, of].T * scale
            if cap is not None:
                scores = np.tanh(scores / np.float32(cap)) * np.float32(cap)
            scores = np.where(hidden, np.float32(-np.inf), scores)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, head] = weights / weights.sum(axis=1, keepdims=True) @ v[:, of]
        return self._linear(f"{prefix}o_proj", out.reshape(count, heads * d))

    @property
    def _scale(self) -> float:
        config = self._config
        if self._kind.startswith("granite"):
            return float(config["attention_multiplier"])
        return 1 / math.sqrt(config.get("query_pre_attn_scalar") or config["head_dim"])

    def _hidden(self, layer: int, count: int) -> Array:
        """(count, count) bool: which positions a position does not see."""
        at = np.arange(count)
        distance = at[:, None] - at
        window = self._window(layer)
        return (distance < 0) | (distance >= window) if window else distance < 0

    def _window(self, layer: int) -> int:
        config = self._config
        window = config.get("sliding_window") or max(0, config.get("sliding_window_size", 0))
        if self._kind == "gemma2" and layer % 2:
            return 0
        return 0 if self._sees_all(layer) else int(window)

    def _sees_all(self, layer: int) -> bool:
        """Whether a layer is one of Gemma 3's without a window, which have their own rotation."""
        pattern = self._config.get("sliding_window_pattern")
        return pattern is not None and (layer + 1) % pattern == 0

    def _rotated(self, layer: int, x: Array) -> Array:
        config = self._config
        if not self._ropes:
            return x
        if self._kind == "smollm3":
            flags = config.get("no_rope_layers")
            step = config["no_rope_layer_interval"]
            if not (flags[layer] if flags is not None else (layer + 1) % step):
                return x
        local = len(self._ropes) > 1 and not self._sees_all(layer)
        cos, sin = (table[:, None] for table in self._tables[local])
        half = self._ropes[local].dims // 2
        a, b, rest = np.split(x, [half, 2 * half], axis=2)
        return np.concatenate((a * cos - b * sin, b * cos + a * sin, rest), axis=2)

    def _norm(self, name: str, x: Array) -> Array:
        weight = self._vector(f"{name}.weight").reshape(-1, x.shape[-1])  # or one for each head
        if not self._family.norm_bias:
            eps = np.float32(self._config["rms_norm_eps"])
            normed: Array = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + eps) * weight
            return normed
        eps = np.float32(self._config["layer_norm_eps"])
        x = x - x.mean(axis=-1, keepdims=True)
        normed = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + eps) * weight
        if renamed(f"{name}.bias", self._family.mlc) in self._parameters:
            normed = normed + self._vector(f"{name}.bias")
        return normed

    def _linear(self, name: str, x: Array) -> Array:
        parameter = self._parameters[renamed(f"{name}.weight", self._family.mlc)]
        self._on_inputs(parameter.name, x)
        out = np.empty((len(x), parameter.shape[0]), np.float32)
        at = 0
        for _, size, rows in hf_weights.read(self._model, parameter, hf_weights.PIECE):
            out[:, at : at + len(rows)] = x @ rows.astype(np.float32).T
            at += len(rows)
            self._on_bytes(size)
        if renamed(f"{name}.bias", self._family.mlc) in self._parameters:
            out += self._vector(f"{name}.bias")
        return out

    def _vector(self, name: str) -> Array:
        parameter = self._parameters[renamed(name, self._family.mlc)]
        made = []
        for _, size, values in hf_weights.read(self._model, parameter, hf_weights.PIECE):
            made.append(values.astype(np.float32))
            self._on_bytes(size)
        return np.concatenate(made)

    def _row(self, name: str, index: int) -> Array:
        ((theirs, _),) = self._parameters[renamed(name, self._family.mlc)].parts
        file, tensor = self._model.tensors[theirs]
        return file.read_rows(tensor, index, index + 1).astype(np.float32)


def _ropes(kind: str, config: Mapping[str, Any]) -> list[Rope]:
    """The rotary embeddings: none, that of all layers, or also that of layers with a window."""
    if FAMILIES[kind].positions:
        return []
    share = config.get("partial_rotary_factor", config.get("rotary_pct", _ROTATED.get(kind, 1.0)))
    dims = int(config["head_dim"] * share + 1e-6)
    theta = config.get("rope_theta") or config["position_embedding_base"]
    ropes = [Rope(theta, dims, config.get("rope_scaling"))]
    local = config.get("rope_local_base_freq")
    return ropes if local is None else [*ropes, Rope(local, dims)]


def _activation(config: Mapping[str, Any]) -> Callable[[Array], Array]:
    name = config.get("hidden_activation") or config["hidden_act"]
    if name in ("silu", "swish"):
        return lambda x: x / (1 + np.exp(-x))
    if name == "gelu" and "hidden_activation" not in config:  # Gemma's is the approximation
        return _gelu
    return _gelu_tanh


def _gelu_tanh(x: Array) -> Array:
    inner = np.float32(_GELU) * (x + np.float32(0.044715) * x * x * x)
    made: Array = np.float32(0.5) * x * (1 + np.tanh(inner))
    return made


def _gelu(x: Array) -> Array:
    """The exact GELU, but for an error below 2e-7 of erf (Abramowitz and Stegun, 7.1.26)."""
    a = np.abs(x) / np.float32(2**0.5)
    t = 1 / (1 + np.float32(0.3275911) * a)
    terms = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
    total = np.zeros_like(t)
    for term in terms:
        total = (total + np.float32(term)) * t
    erf = np.copysign(1 - total * np.exp(-a * a), x)
    made: Array = np.float32(0.5) * x * (1 + erf)
    return made
