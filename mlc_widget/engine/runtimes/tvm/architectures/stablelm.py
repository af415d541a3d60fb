"""StableLM 2: Llama with LayerNorm, partial rotation, and biases of queries, keys and values.

The 12B model has, in place of these biases, a LayerNorm of each head of queries and keys, and
attention and MLP that read the same normalized input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from tvm.relax.frontend import nn

from mlc_widget.engine.runtimes.tvm.architectures.llama import (
    LlamaAttention,
    LlamaConfig,
    LlamaDecoderLayer,
    ParallelLayer,
)
from mlc_widget.engine.runtimes.tvm.architectures.qwen3 import HeadNormAttention
from mlc_widget.engine.runtimes.tvm.builder import Builder
from mlc_widget.engine.store.fields import Fields


@dataclass(frozen=True, slots=True)
class StableLMConfig(LlamaConfig):
    """Llama's fields, `layer_norm_eps`, and what only some of the models have."""

    family: ClassVar[str] = "StableLM"

    head_norms: bool = False
    parallel: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and check `model_config`; raises as `LlamaConfig.from_config`."""
        fields = Fields({"partial_rotary_factor": 0.25, **config}, "model_config")
        return cls(
            **cls._common(fields, norm="layer_norm_eps"),
            qkv_bias=fields.boolean("use_qkv_bias", default=False),
            head_norms=fields.boolean("qk_layernorm", default=False),
            parallel=fields.boolean("use_parallel_residual", default=False),
        )

    def norm(self, build: Builder) -> Any:
        """A norm before a block, and before the output layer."""
        return build.layer_norm(self.hidden_size, self.rms_norm_eps)

    def decoder_layer(self, build: Builder, layer: int) -> nn.Module:
        """A layer."""
        made = ParallelLayer if self.parallel else LlamaDecoderLayer
        return made(self, build, layer)

    def attention(self, build: Builder, layer: int) -> nn.Module:
        """A layer's attention."""
        if self.head_norms:
            return HeadNormAttention(self, build, layer, kind="layer")
        return LlamaAttention(self, build, layer)
