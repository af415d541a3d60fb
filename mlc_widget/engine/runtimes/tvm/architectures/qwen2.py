# mypy: disable-error-code="misc"
"""Qwen2 and Qwen2.5: Llama with biases in the projection to queries, keys and values."""

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
class Qwen2Config(LlamaConfig):
    """Llama's fields; MLC calls the rotary base `rope_theta` here."""

    family: ClassVar[str] = "Qwen2"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and check `model_config`; raises as `LlamaConfig.from_config`."""
        return cls(**cls._common(Fields(config, "model_config")))

    def attention(self, build: Builder, layer: int) -> nn.Module:
        """A layer's attention."""
        return Qwen2Attention(self, build, layer)


class Qwen2Attention(nn.Module):
    """Grouped-query attention with rotary embedding; `c_attn` projects to q, k and v."""

    def __init__(self, c: Qwen2Config, build: Builder, layer: int) -> None:
        super().__init__()
        self.attention = build.attention(c.attention_spec(layer), layer)
        q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        self.c_attn = build.linear(c.hidden_size, q + 2 * kv, bias=True)
        self.o_proj = build.linear(q, c.hidden_size)

    def forward(self, x: Tensor, rows: Rows, residual: Tensor) -> Tensor:
        """Residual + attention(x)."""
        return self.o_proj(self.attention(self.c_attn(x), rows), residual)
