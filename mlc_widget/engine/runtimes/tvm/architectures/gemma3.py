# mypy: disable-error-code="misc"
"""Gemma 3 (text): Gemma 2 with norms of query and key heads instead of soft caps.

Of six layers, five have a sliding window and a rotary table of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from tvm.relax.frontend import nn

from mlc_widget.engine.runtimes.tvm.architectures.gemma import GemmaConfig
from mlc_widget.engine.runtimes.tvm.architectures.gemma2 import Gemma2DecoderLayer
from mlc_widget.engine.runtimes.tvm.architectures.qwen3 import HeadNormAttention
from mlc_widget.engine.runtimes.tvm.builder import AttentionSpec, Builder
from mlc_widget.engine.store.fields import Fields
from mlc_widget.engine.store.rope import Rope


@dataclass(frozen=True, slots=True)
class Gemma3Config(GemmaConfig):
    """Gemma's fields and those of the sliding windows; MLC has most of them in `text_config`."""

    family: ClassVar[str] = "Gemma 3"

    local_rope: Rope | None = None
    pattern: int = 6

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and check `model_config`; raises as `LlamaConfig.from_config`."""
        inner = config.get("text_config") if isinstance(config, Mapping) else None
        if inner is not None:
            above = {"vocab_size": config.get("vocab_size", 262208)}
            config = {**above, **_flat(Fields(inner, "model_config.text_config"), inner)}
        else:
            config = _flat(Fields(config, "model_config"), config)
        fields = Fields(config, "model_config")
        common = cls._gemma(
            {"position_embedding_base": 1e6, "query_pre_attn_scalar": 256, **config}
        )
        window = fields.get("sliding_window", fields.get("sliding_window_size", 512))
        local = fields.positive_float("rope_local_base_freq", 10000.0, least=1.0)
        return cls(
            **common,
            sliding_window=Fields({"sliding_window": window}, "model_config").positive_int(
                "sliding_window"
            ),
            local_rope=Rope(local, common["rope"].dims),
            pattern=fields.positive_int("sliding_window_pattern", 6),
        )

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The table of layers that attend to all, and that of layers with a window."""
        assert self.local_rope is not None
        return self.rope, self.local_rope

    def attention_spec(self, layer: int) -> AttentionSpec:
        """The parameters of a layer's attention; the last of each `pattern` layers sees all."""
        spec = GemmaConfig.attention_spec(self, layer)
        if (layer + 1) % self.pattern == 0:
            return dataclasses.replace(spec, window=None, rotary=0)
        return dataclasses.replace(spec, rotary=1)

    def attention(self, build: Builder, layer: int) -> nn.Module:
        """A layer's attention."""
        return HeadNormAttention(self, build, layer)

    def decoder_layer(self, build: Builder, layer: int) -> nn.Module:
        """A layer."""
        return Gemma2DecoderLayer(self, build, layer)


def _flat(fields: Fields, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields, with those of which MLC keeps the rest in `kwargs`."""
    more = fields.get("kwargs", {})
    return {**(more if isinstance(more, Mapping) else {}), **config}
