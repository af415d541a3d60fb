# mypy: disable-error-code="misc"
"""OLMo 2: norms of what each block returns, none before it, and one norm of all queries or keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from mlc_widget.engine.runtimes.tvm.architectures.llama import LlamaConfig, LlamaMLP
from mlc_widget.engine.runtimes.tvm.architectures.qwen3 import HeadNormAttention
from mlc_widget.engine.runtimes.tvm.builder import Builder, Rows


@dataclass(frozen=True, slots=True)
class OLMo2Config(LlamaConfig):
    """Llama's fields."""

    family: ClassVar[str] = "OLMo 2"

    def decoder_layer(self, build: Builder, layer: int) -> nn.Module:
        """A layer."""
        return OLMo2DecoderLayer(self, build, layer)

    def attention(self, build: Builder, layer: int) -> nn.Module:
        """A layer's attention."""
        return HeadNormAttention(self, build, layer, kind="joint rms")


class OLMo2DecoderLayer(nn.Module):
    """Attention and MLP; what they return is normalized and added to the residual."""

    def __init__(self, c: LlamaConfig, build: Builder, layer: int) -> None:
        super().__init__()
        self.self_attn = c.attention(build, layer)
        self.mlp = LlamaMLP(c, build)
        self.post_attention_layernorm = build.output_norm(c.hidden_size, c.rms_norm_eps)
        self.post_feedforward_layernorm = build.output_norm(c.hidden_size, c.rms_norm_eps)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """(n, hidden) → (n, hidden)."""
        x = self.post_attention_layernorm(self.self_attn(x, rows), x)
        return self.post_feedforward_layernorm(self.mlp(x), x)
