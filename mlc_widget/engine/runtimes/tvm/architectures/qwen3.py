# mypy: disable-error-code="misc"
"""Qwen3: Llama with an RMSNorm over each head of queries and keys before they are rotated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from mlc_widget.engine.runtimes.tvm.architectures.llama import LlamaConfig
from mlc_widget.engine.runtimes.tvm.builder import Builder, HeadNorm, Rows
from mlc_widget.engine.store.fields import Fields


@dataclass(frozen=True, slots=True)
class Qwen3Config(LlamaConfig):
    """Llama's fields and `attention_bias`; `head_dim` does not depend on `hidden_size`."""

    family: ClassVar[str] = "Qwen3"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and check `model_config`; raises as `LlamaConfig.from_config`."""
        fields = Fields(config, "model_config")
        fields.positive_int("head_dim")
        return cls(**cls._common(fields), **cls._biases(fields))

    def attention(self, build: Builder, layer: int) -> nn.Module:
        """A layer's attention."""
        return HeadNormAttention(self, build, layer, qkv="c_attn")


class HeadNormAttention(nn.Module):
    """Grouped-query attention with a norm of queries and keys before they are rotated.

    `qkv` is MLC's name of the projection to queries, keys and values.
    """

    def __init__(
        self,
        c: LlamaConfig,
        build: Builder,
        layer: int,
        *,
        qkv: str = "qkv_proj",
        kind: HeadNorm = "rms",
    ) -> None:
        super().__init__()
        self.build, self.projection, self.kind = build, qkv, kind
        self.attention = build.attention(c.attention_spec(layer), layer)
        q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        setattr(self, qkv, build.linear(c.hidden_size, q + 2 * kv, bias=c.qkv_bias))
        self.o_proj = build.linear(q, c.hidden_size, bias=c.o_bias)
        self.q_norm = build.head_norm(c.head_dim if kind == "rms" else q, c.rms_norm_eps)
        self.k_norm = build.head_norm(c.head_dim if kind == "rms" else kv, c.rms_norm_eps)

    def forward(self, x: Tensor, rows: Rows, residual: Tensor | None = None) -> Tensor:
        """(Residual +) attention(x)."""
        spec, project = self.attention.spec, getattr(self, self.projection)
        qkv = self.build.norm_heads(project(x), self.q_norm, self.k_norm, spec, self.kind)
        return self.o_proj(self.attention(qkv, rows), residual)
