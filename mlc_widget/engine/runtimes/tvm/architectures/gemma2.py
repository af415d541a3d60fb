# mypy: disable-error-code="misc"
"""Gemma 2: norms before and after each block, soft caps, and windows in every second layer.

In MLC's folders and in GGUF files, the weights of norms are stored with the 1 already added.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from mlc_widget.engine.runtimes.tvm.architectures.gemma import GemmaConfig
from mlc_widget.engine.runtimes.tvm.architectures.llama import LlamaMLP
from mlc_widget.engine.runtimes.tvm.builder import AttentionSpec, Builder, Rows
from mlc_widget.engine.store.fields import Fields


@dataclass(frozen=True, slots=True)
class Gemma2Config(GemmaConfig):
    """Gemma's fields, those of the query's scale and the soft caps, and `sliding_window`."""

    family: ClassVar[str] = "Gemma 2"

    attention_soft_cap: float | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and check `model_config`; raises as `LlamaConfig.from_config`."""
        fields = Fields(config, "model_config")

        def optional(key: str) -> float | None:
            return None if fields.get(key, None) is None else fields.positive_float(key)

        return cls(
            **cls._gemma(config),
            sliding_window=fields.positive_int("sliding_window", 4096),
            attention_soft_cap=optional("attn_logit_softcapping"),
            logit_soft_cap=optional("final_logit_softcapping"),
        )

    def attention_spec(self, layer: int) -> AttentionSpec:
        """The parameters of a layer's attention; the first of two layers has the window."""
        spec = GemmaConfig.attention_spec(self, layer)
        return dataclasses.replace(
            spec,
            window=None if layer % 2 else spec.window,
            soft_cap=self.attention_soft_cap,
        )

    def decoder_layer(self, build: Builder, layer: int) -> nn.Module:
        """A layer."""
        return Gemma2DecoderLayer(self, build, layer)


class Gemma2DecoderLayer(nn.Module):
    """Attention and MLP; what they return is normalized and added to the residual."""

    def __init__(self, c: GemmaConfig, build: Builder, layer: int) -> None:
        super().__init__()
        self.self_attn = c.attention(build, layer)
        self.mlp = LlamaMLP(c, build)
        self.input_layernorm = c.norm(build)
        self.post_attention_layernorm = build.output_norm(c.hidden_size, c.rms_norm_eps)
        self.pre_feedforward_layernorm = c.norm(build)
        self.post_feedforward_layernorm = build.output_norm(c.hidden_size, c.rms_norm_eps)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """(n, hidden) → (n, hidden)."""
        x = self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), rows), x)
        return self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)), x)
