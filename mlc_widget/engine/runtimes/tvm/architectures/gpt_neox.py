# mypy: disable-error-code="misc"
"""GPT-NeoX: Pythia and RedPajama. LayerNorm, biases, GELU without a gate, partial rotation.

Attention and MLP may both read the layer's input ("parallel residual").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from mlc_widget.engine.runtimes.tvm.architectures.llama import LlamaConfig
from mlc_widget.engine.runtimes.tvm.builder import Activation, Builder, Rows
from mlc_widget.engine.store.fields import Fields


@dataclass(frozen=True, slots=True)
class GPTNeoXConfig(LlamaConfig):
    """Llama's fields, with `layer_norm_eps`, `rotary_pct` and `use_parallel_residual`."""

    family: ClassVar[str] = "GPT-NeoX"
    activations: ClassVar[Mapping[str, Activation]] = {
        "gelu": "gelu",
        "gelu_fast": "gelu_tanh",
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
    }

    parallel: bool = True

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and check `model_config`; raises as `LlamaConfig.from_config`."""
        fields = Fields(config, "model_config")
        share = fields.positive_float("rotary_pct", 0.25, most=1.0)
        values = {"partial_rotary_factor": share, **config}
        return cls(
            **cls._common(Fields(values, "model_config"), norm="layer_norm_eps"),
            qkv_bias=True,
            o_bias=True,
            parallel=fields.boolean("use_parallel_residual", default=True),
        )

    def norm(self, build: Builder) -> Any:
        """A norm before a block, and before the output layer."""
        return build.layer_norm(self.hidden_size, self.rms_norm_eps)

    def mlp(self, build: Builder) -> nn.Module:
        """A layer's MLP."""
        return PlainMLP(self, build)

    def decoder_layer(self, build: Builder, layer: int) -> nn.Module:
        """A layer."""
        return GPTNeoXLayer(self, build, layer)


class PlainMLP(nn.Module):
    """down(activation(up(x))), with biases."""

    def __init__(self, c: LlamaConfig, build: Builder) -> None:
        super().__init__()
        self.build, self.activation = build, c.activation
        self.up_proj = build.linear(c.hidden_size, c.intermediate_size, bias=True)
        self.down_proj = build.linear(c.intermediate_size, c.hidden_size, bias=True)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Residual + mlp(x)."""
        return self.down_proj(self.build.activation(self.up_proj(x), self.activation), residual)


class GPTNeoXLayer(nn.Module):
    """Attention and MLP, one after the other or both of the layer's input."""

    def __init__(self, c: GPTNeoXConfig, build: Builder, layer: int) -> None:
        super().__init__()
        self.parallel = c.parallel
        self.self_attn = c.attention(build, layer)
        self.mlp = c.mlp(build)
        self.input_layernorm = c.norm(build)
        self.post_attention_layernorm = c.norm(build)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """(n, hidden) → (n, hidden)."""
        y = self.self_attn(self.input_layernorm(x), rows, x)
        return self.mlp(self.post_attention_layernorm(x if self.parallel else y), y)
