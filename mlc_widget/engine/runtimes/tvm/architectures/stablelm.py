"""StableLM 2: Llama with LayerNorm, partial rotation, and biases of queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from mlc_widget.api.errors import UnsupportedModelError
from mlc_widget.engine.runtimes.tvm.architectures.llama import LlamaConfig
from mlc_widget.engine.runtimes.tvm.builder import Builder
from mlc_widget.engine.store.fields import Fields


@dataclass(frozen=True, slots=True)
class StableLMConfig(LlamaConfig):
    """Llama's fields, with `layer_norm_eps` and `use_qkv_bias`."""

    family: ClassVar[str] = "StableLM"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and check `model_config`; raises as `LlamaConfig.from_config`."""
        fields = Fields({"partial_rotary_factor": 0.25, **config}, "model_config")
        for key in ("use_parallel_residual", "qk_layernorm"):
            if fields.boolean(key, default=False):
                raise UnsupportedModelError(
                    f"model_config.{key} is true; the tvm runtime supports {cls.family} only "
                    "without it.",
                    param=f"model_config.{key}",
                )
        return cls(
            **cls._common(fields, norm="layer_norm_eps"),
            qkv_bias=fields.boolean("use_qkv_bias", default=False),
        )

    def norm(self, build: Builder) -> Any:
        """A norm before a block, and before the output layer."""
        return build.layer_norm(self.hidden_size, self.rms_norm_eps)
