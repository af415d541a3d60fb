# mypy: disable-error-code="misc"
"""Qwen3: Llama with an RMSNorm over each head of queries and keys before they are rotated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from mlc_widget.engine.runtimes.tvm.architectures.llama import LlamaConfig
from mlc_widget.engine.runtimes.tvm.builder import Builder, Rows
from mlc_widget.engine.store.fields import Fields


@dataclass(frozen=True, slots=True)
class Qwen3Config(LlamaConfig):
    """Llama's fields and `attention_bias`; `head_dim` does not depend on `hidden_size`."""

    family: ClassVar[str] = "Qwen3"

    attention_bias: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and check `model_config`; raises as `LlamaConfig.from_config`."""
        fields = Fields(config, "model_config")
        fields.positive_int("head_dim")
        bias = fields.boolean("attention_bias", default=False)
        return cls(**cls._common(fields), attention_bias=bias)

    def attention(self, build: Builder, layer: int) -> nn.Module:
        """A layer's attention."""
        return HeadNormAttention(self, build, layer, qkv="c_attn", bias=self.attention_bias)


class HeadNormAttention(nn.Module):
    """Grouped-query attention with RMSNorm over each head of queries and keys, or over all.

    `qkv` is MLC's name of the projection to queries, keys and values.
    """

    def __init__(
        self,
        c: LlamaConfig,
        build: Builder,
        layer: int,
        *,
        qkv: str = "qkv_proj",
        bias: bool = False,
        together: bool = False,
    ) -> None:
        super().__init__()
        self.build, self.projection, self.together = build, qkv, together
        self.attention = build.attention(c.attention_spec(layer), layer)
        q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        setattr(self, qkv, build.linear(c.hidden_size, q + 2 * kv, bias=bias))
        self.o_proj = build.linear(q, c.hidden_size, bias=bias)
        self.q_norm = build.head_norm(q if together else c.head_dim, c.rms_norm_eps)
        self.k_norm = build.head_norm(kv if together else c.head_dim, c.rms_norm_eps)

    def forward(self, x: Tensor, rows: Rows, residual: Tensor | None = None) -> Tensor:
        """(Residual +) attention(x)."""
        spec, project = self.attention.spec, getattr(self, self.projection)
        qkv = self.build.norm_heads(
            project(x), self.q_norm, self.k_norm, spec, together=self.together
        )
        return self.o_proj(self.attention(qkv, rows), residual)
