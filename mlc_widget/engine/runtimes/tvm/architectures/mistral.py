"""Mistral: Llama with a sliding window (version 0.1) or full attention (later versions)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from mlc_widget.engine.runtimes.tvm.architectures.llama import LlamaConfig
from mlc_widget.engine.store.fields import Fields


@dataclass(frozen=True, slots=True)
class MistralConfig(LlamaConfig):
    """Llama's fields and `sliding_window_size` (-1: none).

    A token attends to the latest keys in the window, as in training. mlc_llm's
    `attention_sink_size`, with which it also attends to the sequence's first tokens, is not used.
    """

    family: ClassVar[str] = "Mistral"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and check `model_config`; raises as `LlamaConfig.from_config`."""
        return cls(**cls._windowed(config))

    @classmethod
    def _windowed(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Read Llama's fields and the window."""
        fields = Fields(config, "model_config")
        rest = {k: v for k, v in config.items() if k != "sliding_window_size"}
        common = cls._common(Fields(rest, "model_config"))
        if fields.get("sliding_window_size", -1) == -1:
            return common
        return {**common, "sliding_window": fields.positive_int("sliding_window_size")}
