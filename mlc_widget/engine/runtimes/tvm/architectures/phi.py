# mypy: disable-error-code="misc"
"""Phi-1.5 and Phi-2: attention and MLP of the same normalized input; LayerNorm, biases, no gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from tvm.relax.frontend import nn

from mlc_widget.engine.runtimes.tvm.architectures.gpt_neox import GPTNeoXConfig
from mlc_widget.engine.runtimes.tvm.architectures.llama import ParallelLayer
from mlc_widget.engine.runtimes.tvm.builder import Activation, Builder
from mlc_widget.engine.store.fields import Fields


@dataclass(frozen=True, slots=True)
class PhiConfig(GPTNeoXConfig):
    """Llama's fields; files may have them under the names of Phi's first version."""

    family: ClassVar[str] = "Phi"
    activations: ClassVar[Mapping[str, Activation]] = {"gelu_new": "gelu_tanh", "gelu": "gelu"}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and check `model_config`; raises as `LlamaConfig.from_config`."""
        fields = Fields({"partial_rotary_factor": 0.5, **config}, "model_config")
        return cls(
            **cls._common(fields, norm="layer_norm_eps"),
            qkv_bias=True,
            o_bias=True,
            output_bias=True,
        )

    def decoder_layer(self, build: Builder, layer: int) -> nn.Module:
        """A layer."""
        return ParallelLayer(self, build, layer)
