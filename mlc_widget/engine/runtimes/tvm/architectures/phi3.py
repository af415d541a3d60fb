"""Phi-3, Phi-3.5 and Phi-4-mini: Llama with LongRoPE and, in the last, partial rotation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from mlc_widget.engine.runtimes.tvm.architectures.llama import LlamaConfig
from mlc_widget.engine.store.fields import Fields


@dataclass(frozen=True, slots=True)
class Phi3Config(LlamaConfig):
    """Llama's fields, `partial_rotary_factor`, and what LongRoPE needs."""

    family: ClassVar[str] = "Phi-3"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and check `model_config`; raises as `LlamaConfig.from_config`."""
        fields = Fields(config, "model_config")
        common = cls._common(fields)
        if fields.get("sliding_window", None) is None:
            return cls(**common)
        return cls(**common, sliding_window=fields.positive_int("sliding_window"))

    @classmethod
    def _rope_scaling(cls, fields: Fields) -> Any:
        """Read LongRoPE's factors, which the first files call those of ``su``."""
        scaling = fields.get("rope_scaling", None)
        if not isinstance(scaling, Mapping):
            return scaling
        kind = scaling.get("rope_type") or scaling.get("type")
        sizes = {
            key: fields.positive_int(key)
            for key in ("max_position_embeddings", "original_max_position_embeddings")
            if fields.get(key, None)
        }
        return {**sizes, **scaling, "rope_type": "longrope" if kind in ("su", "yarn") else kind}
