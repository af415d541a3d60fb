"""Mistral: Llama with attention to a sliding window (version 0.1) or to all (later versions)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from mlc_widget.engine.runtimes.tvm.architectures.llama import LlamaConfig
from mlc_widget.engine.runtimes.tvm.fields import Fields


@dataclass(frozen=True, slots=True)
class MistralConfig(LlamaConfig):
    """Llama's fields, `sliding_window_size` (-1: none) and `attention_sink_size`."""

    family: ClassVar[str] = "Mistral"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and check `model_config`; raises as `LlamaConfig.from_config`."""
        fields = Fields(config, "model_config")
        rest = {k: v for k, v in config.items() if k != "sliding_window_size"}
        common = cls._common(Fields(rest, "model_config"))
        if fields.get("sliding_window_size", -1) == -1:
            return cls(**common)
        window = fields.positive_int("sliding_window_size")
        # mlc_llm's own default keeps four.
        sink = fields.get("attention_sink_size", 4)
        if isinstance(sink, bool) or not isinstance(sink, int) or not -1 <= sink < window:
            raise fields.wrong("attention_sink_size", f"must be an integer below {window}")
        return cls(**common, sliding_window=window, attention_sink=max(0, sink))
