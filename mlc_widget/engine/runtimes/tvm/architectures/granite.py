# mypy: disable-error-code="misc"
"""Granite 3 and 4 (dense): Llama with multipliers of embedding, attention, residual and logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from mlc_widget.engine.runtimes.tvm.architectures.llama import LlamaConfig, LlamaDecoderLayer
from mlc_widget.engine.runtimes.tvm.builder import Builder, Rows
from mlc_widget.engine.store.fields import Fields


@dataclass(frozen=True, slots=True)
class GraniteConfig(LlamaConfig):
    """Llama's fields and the multipliers; logits are divided by `logits_scaling`."""

    family: ClassVar[str] = "Granite"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and check `model_config`; raises as `LlamaConfig.from_config`."""
        fields = Fields(config, "model_config")
        return cls(
            **cls._common(fields),
            **cls._biases(fields),
            embedding_scale=fields.positive_float("embedding_multiplier", 1.0),
            attention_scale=fields.positive_float("attention_multiplier", 1.0),
            residual_scale=fields.positive_float("residual_multiplier", 1.0),
            logit_scale=1 / fields.positive_float("logits_scaling", 1.0),
        )

    def decoder_layer(self, build: Builder, layer: int) -> nn.Module:
        """A layer."""
        return GraniteDecoderLayer(self, build, layer)


class GraniteDecoderLayer(LlamaDecoderLayer):
    """Attention and MLP, each multiplied before it is added to the residual."""

    def __init__(self, c: GraniteConfig, build: Builder, layer: int) -> None:
        super().__init__(c, build, layer)
        self.build, self.scale = build, c.residual_scale

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """(n, hidden) → (n, hidden)."""
        h = self.self_attn(self.input_layernorm(x), rows)
        x = self.build.scaled(h, self.scale, x)
        h = self.mlp(self.post_attention_layernorm(x))
        return self.build.scaled(h, self.scale, x)
