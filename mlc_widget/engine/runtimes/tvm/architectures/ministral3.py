"""Ministral 3: Mistral with YaRN.

Beyond the context of its training, queries also grow with their position; here the context ends
there instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from mlc_widget.engine.runtimes.tvm.architectures.mistral import MistralConfig
from mlc_widget.engine.store.fields import Fields


@dataclass(frozen=True, slots=True)
class Ministral3Config(MistralConfig):
    """Mistral's fields; those of YaRN are in `rope_parameters`."""

    family: ClassVar[str] = "Ministral 3"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and check `model_config`; raises as `LlamaConfig.from_config`."""
        rope = Fields(config, "model_config").nested("rope_parameters")
        own = config.get("rope_parameters") or {}
        base = rope.positive_float("rope_theta", config.get("rope_theta", 1e6), least=1.0)
        values = {"position_embedding_base": base, "rope_scaling": own or None, **config}
        made = cls._windowed({k: v for k, v in values.items() if v is not None})
        if rope.get("llama_4_scaling_beta", None) is None:
            return cls(**made)
        return cls(**made, positions=rope.positive_int("original_max_position_embeddings"))
