# mypy: disable-error-code="misc"
"""Llama 2 and 3, and models of the same architecture: SmolLM2 (tied embeddings), TinyLlama.

Similar architectures are made from the same parts. Parameters have MLC's names.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from mlc_widget.api.errors import UnsupportedModelError
from mlc_widget.engine.runtimes.tvm.builder import Activation, AttentionSpec, Builder, Rows
from mlc_widget.engine.runtimes.tvm.model_shape import ModelShape
from mlc_widget.engine.store.fields import (
    MOST_FEATURES,
    MOST_HEAD_DIM,
    MOST_HEADS,
    MOST_LAYERS,
    MOST_TOKENS,
    Fields,
)
from mlc_widget.engine.store.rope import Rope

_SHOWN: Final = 100
"""The characters of a value that a message shows."""


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """The fields of a Llama's `model_config`, by MLC's names."""

    family: ClassVar[str] = "Llama"
    activations: ClassVar[Mapping[str, Activation]] = {"silu": "silu", "swish": "silu"}
    """The activations of the gate that the family may have, by their names in the field."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    num_hidden_layers: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    rope: Rope
    sliding_window: int = 0
    activation: Activation = "silu"
    embedding_scale: float = 1.0
    attention_scale: float | None = None
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_soft_cap: float | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    output_bias: bool = False
    positions: int | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and check `model_config`.

        Raises:
            ModelFormatError: A field is missing or wrong.
            UnsupportedModelError: The model has a feature that is not supported.
        """
        fields = Fields(config, "model_config")
        return cls(**cls._common(fields), **cls._biases(fields))

    @classmethod
    def _biases(cls, fields: Fields) -> dict[str, Any]:
        """Read whether attention's projections have biases."""
        if fields.boolean("mlp_bias", default=False):
            raise _unsupported(fields, "mlp_bias", f"supports {cls.family} only without it")
        biased = fields.boolean("attention_bias", default=False)
        return {"qkv_bias": biased, "o_bias": biased}

    @classmethod
    def _common(cls, fields: Fields, *, norm: str = "rms_norm_eps") -> dict[str, Any]:
        """Read the fields that all models of this kind have; `norm` is that of the norms' eps."""
        hidden = fields.positive_int("hidden_size", most=MOST_FEATURES)
        heads = fields.positive_int("num_attention_heads", most=MOST_HEADS)
        kv_heads = fields.positive_int("num_key_value_heads", heads, most=heads)
        head_dim = fields.positive_int("head_dim", hidden // heads, most=MOST_HEAD_DIM)
        if heads % kv_heads:
            raise fields.wrong("num_key_value_heads", f"must divide num_attention_heads, {heads}")
        if head_dim % 16:
            raise _unsupported(fields, "head_dim", "supports only multiples of 16", head_dim)
        window = fields.get("sliding_window_size", -1)
        if window not in (-1, 0):
            raise _unsupported(
                fields, "sliding_window_size", f"supports {cls.family} only without a window (-1)"
            )
        theta = fields.positive_float(
            "position_embedding_base", fields.get("rope_theta", 10000), least=1.0
        )
        return {
            "hidden_size": hidden,
            "intermediate_size": fields.positive_int("intermediate_size", most=MOST_FEATURES),
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "num_hidden_layers": fields.positive_int("num_hidden_layers", most=MOST_LAYERS),
            "head_dim": head_dim,
            "vocab_size": fields.positive_int("vocab_size", most=MOST_TOKENS),
            "rms_norm_eps": fields.positive_float(norm, most=1.0),
            "tie_word_embeddings": fields.boolean("tie_word_embeddings", default=False),
            "rope": Rope(theta, cls._rotary_dims(fields, head_dim), cls._rope_scaling(fields)),
            "activation": cls._activation(fields),
        }

    @classmethod
    def _activation(cls, fields: Fields, key: str = "hidden_act") -> Activation:
        """Read the activation; by default, the family's first."""
        name = fields.get(key, next(iter(cls.activations)))
        if not isinstance(name, str) or name not in cls.activations:
            runs = " or ".join(cls.activations)
            raise _unsupported(fields, key, f"supports {cls.family} with {runs}")
        return cls.activations[name]

    @classmethod
    def _rotary_dims(cls, fields: Fields, head_dim: int) -> int:
        """Read how many dimensions of a head are rotated."""
        share = fields.positive_float("partial_rotary_factor", 1.0, most=1.0)
        dims = fields.positive_int("rotary_dim", int(head_dim * share + 1e-6) or 1, most=head_dim)
        if dims % 2:
            raise UnsupportedModelError(
                f"model_config: {dims} dimensions of each head are rotated; the tvm runtime "
                "supports even numbers.",
                param="model_config.partial_rotary_factor",
            )
        return dims

    @classmethod
    def _rope_scaling(cls, fields: Fields) -> Any:
        """Read the scaling of the rotary embedding, for `Rope`."""
        return fields.get("rope_scaling", None)

    @property
    def shape(self) -> ModelShape:
        """The shape of the model."""
        return ModelShape(
            layers=self.num_hidden_layers,
            query_heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            ropes=self.ropes,
            positions=self.positions,
        )

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The rotary embeddings; `attention_spec` says which of them a layer has."""
        return (self.rope,)

    def compiled_from(self) -> Mapping[str, Any]:
        """All fields except for the rotary embeddings, whose tables are inputs of the code."""
        fields = (f.name for f in dataclasses.fields(self))
        values = {name: getattr(self, name) for name in fields}
        kept = {k: v for k, v in values.items() if not isinstance(v, Rope)}
        return {**kept, "rotary": [rope.dims for rope in self.ropes]}

    def attention_spec(self, layer: int) -> AttentionSpec:
        """The parameters of a layer's attention."""
        return AttentionSpec(
            self.num_attention_heads,
            self.num_key_value_heads,
            self.head_dim,
            scale=self.attention_scale,
            window=self.sliding_window or None,
            rotary_dims=self.ropes[0].dims if self.ropes else None,
            tables=len(self.ropes),
        )

    def norm(self, build: Builder) -> Any:
        """A norm before a block, and before the output layer."""
        return build.rms_norm(self.hidden_size, self.rms_norm_eps)

    def model(self, build: Builder) -> nn.Module:
        """The embedding, the layers and the last norm."""
        return LlamaModel(self, build)

    def decoder_layer(self, build: Builder, layer: int) -> nn.Module:
        """A layer, with ``forward(x, rows)``."""
        return LlamaDecoderLayer(self, build, layer)

    def attention(self, build: Builder, layer: int) -> nn.Module:
        """A layer's attention, with ``forward(x, rows, residual)``."""
        return LlamaAttention(self, build, layer)

    def mlp(self, build: Builder) -> nn.Module:
        """A layer's MLP, with ``forward(x, residual)``."""
        return LlamaMLP(self, build)

    def build(self, build: Builder) -> nn.Module:
        """The module of this configuration."""
        return LlamaForCausalLM(self, build)


def _unsupported(
    fields: Fields, key: str, runs: str, value: object = None
) -> UnsupportedModelError:
    shown = json.dumps(fields.get(key, value))
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}…"
    return UnsupportedModelError(
        f"model_config.{key} is {shown}; the tvm runtime {runs}.", param=f"model_config.{key}"
    )


class LlamaAttention(nn.Module):
    """Grouped-query attention with rotary embedding."""

    def __init__(self, c: LlamaConfig, build: Builder, layer: int) -> None:
        super().__init__()
        self.attention = build.attention(c.attention_spec(layer), layer)
        q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        self.qkv_proj = build.linear(c.hidden_size, q + 2 * kv, bias=c.qkv_bias)
        self.o_proj = build.linear(q, c.hidden_size, bias=c.o_bias)

    def forward(self, x: Tensor, rows: Rows, residual: Tensor | None = None) -> Tensor:
        """(Residual +) attention(x)."""
        return self.o_proj(self.attention(self.qkv_proj(x), rows), residual)


class LlamaMLP(nn.Module):
    """down(activation(gate(x)) · up(x))."""

    def __init__(self, c: LlamaConfig, build: Builder) -> None:
        super().__init__()
        self.gate_up_proj = build.gated_linear(c.hidden_size, c.intermediate_size, c.activation)
        self.down_proj = build.linear(c.intermediate_size, c.hidden_size)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(Residual +) mlp(x)."""
        return self.down_proj(self.gate_up_proj(x), residual)


class LlamaDecoderLayer(nn.Module):
    """Attention and MLP, each applied to the normalized input and added to the residual."""

    def __init__(self, c: LlamaConfig, build: Builder, layer: int) -> None:
        super().__init__()
        self.self_attn = c.attention(build, layer)
        self.mlp = c.mlp(build)
        self.input_layernorm = c.norm(build)
        self.post_attention_layernorm = c.norm(build)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """(n, hidden) → (n, hidden)."""
        x = self.self_attn(self.input_layernorm(x), rows, x)
        return self.mlp(self.post_attention_layernorm(x), x)


class ParallelLayer(nn.Module):
    """Attention and MLP of the same normalized input, both added to the residual."""

    def __init__(self, c: LlamaConfig, build: Builder, layer: int) -> None:
        super().__init__()
        self.self_attn = c.attention(build, layer)
        self.mlp = c.mlp(build)
        self.input_layernorm = c.norm(build)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """(n, hidden) → (n, hidden)."""
        h = self.input_layernorm(x)
        return self.mlp(h, self.self_attn(h, rows, x))


class LlamaModel(nn.Module):
    """The embedding, the layers and the last norm."""

    def __init__(self, c: LlamaConfig, build: Builder) -> None:
        super().__init__()
        self.build, self.embedding_scale = build, c.embedding_scale
        self.embed_tokens = build.embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList([c.decoder_layer(build, i) for i in range(c.num_hidden_layers)])
        self.norm = c.norm(build)

    def embed(self, ids: Tensor, rows: Rows) -> Tensor:
        """(n,) ids → (n, hidden)."""
        return self.build.scaled(self.embed_tokens.embed(ids), self.embedding_scale)

    def hidden_states(self, ids: Tensor, rows: Rows) -> Tensor:
        """(n,) ids → (n, hidden), before the last norm."""
        x = self.embed(ids, rows)
        for layer in self.layers:
            x = layer(x, rows)
        return x

    def forward(self, ids: Tensor, rows: Rows, logit_rows: Tensor) -> Tensor:
        """(n,) ids → (m, hidden), for the rows whose logits are needed."""
        return self.norm(self.hidden_states(ids, rows), rows=logit_rows)


class LlamaForCausalLM(nn.Module):
    """The whole model."""

    def __init__(self, c: LlamaConfig, build: Builder) -> None:
        super().__init__()
        self.build, self.factor, self.soft_cap = build, c.logit_scale, c.logit_soft_cap
        self.model = c.model(build)
        self.tied = c.tie_word_embeddings
        if not self.tied:
            self.lm_head = build.linear(c.hidden_size, c.vocab_size, bias=c.output_bias)

    def forward(
        self,
        ids: Tensor,
        position: Tensor,
        slot: Tensor,
        page_table: Tensor,
        tile: Tensor,
        logit_rows: Tensor,
        cos: Tensor,
        sin: Tensor,
        k_pages: Tensor,
        v_pages: Tensor,
        logits: Tensor,
    ) -> Tensor:
        """Run one step; see `compile.forward_spec`."""
        rows = Rows(position, slot, page_table, tile, cos, sin, k_pages, v_pages)
        x = self.model(ids, rows, logit_rows)
        head = self.model.embed_tokens if self.tied else self.lm_head
        return self.build.finish_logits(head(x, out=logits), self.factor, self.soft_cap)
