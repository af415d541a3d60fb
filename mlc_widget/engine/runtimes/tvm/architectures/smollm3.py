"""SmolLM3: Llama without rotary embeddings in every fourth layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from mlc_widget.engine.runtimes.tvm.architectures.llama import LlamaConfig
from mlc_widget.engine.runtimes.tvm.builder import AttentionSpec
from mlc_widget.engine.store.fields import Fields


@dataclass(frozen=True, slots=True)
class SmolLM3Config(LlamaConfig):
    """Llama's fields, and `no_rope_layers`, which has a 0 for each layer that is not rotated."""

    family: ClassVar[str] = "SmolLM3"

    rotated: tuple[bool, ...] = ()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and check `model_config`; raises as `LlamaConfig.from_config`."""
        fields = Fields(config, "model_config")
        common = cls._common(fields)
        layers = common["num_hidden_layers"]
        step = fields.positive_int("no_rope_layer_interval", 4)
        flags = fields.get("no_rope_layers", [int((i + 1) % step != 0) for i in range(layers)])
        if (
            not isinstance(flags, list)
            or len(flags) != layers
            or any(f not in (0, 1) for f in flags)
        ):
            raise fields.wrong("no_rope_layers", f"must be a list of {layers} numbers, 0 or 1")
        return cls(**common, **cls._biases(fields), rotated=tuple(map(bool, flags)))

    def attention_spec(self, layer: int) -> AttentionSpec:
        """The parameters of a layer's attention."""
        spec = LlamaConfig.attention_spec(self, layer)
        return spec if self.rotated[layer] else dataclasses.replace(spec, rotary=None)
