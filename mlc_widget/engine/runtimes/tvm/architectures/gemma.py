# mypy: disable-error-code="misc"
"""Gemma: Llama with a GELU gate, and embeddings that are multiplied by sqrt(hidden_size).

In MLC's folders and in GGUF files, the weights of norms are stored with the 1 already added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from mlc_widget.engine.runtimes.tvm.architectures.llama import LlamaConfig
from mlc_widget.engine.runtimes.tvm.builder import Activation
from mlc_widget.engine.store.fields import Fields


@dataclass(frozen=True, slots=True)
class GemmaConfig(LlamaConfig):
    """Llama's fields; the embedding is always tied to the output layer."""

    family: ClassVar[str] = "Gemma"
    activations: ClassVar[Mapping[str, Activation]] = {
        "gelu_pytorch_tanh": "gelu_tanh",
        "gelu": "gelu_tanh",
    }
    """The first Gemma's files say gelu, but it was trained with the approximation."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and check `model_config`; raises as `LlamaConfig.from_config`."""
        return cls(**cls._gemma(config))

    @classmethod
    def _gemma(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Read the fields that all Gemmas have."""
        fields = Fields(config, "model_config")
        # Windows are those of single layers here, and have another name.
        rest = {k: v for k, v in config.items() if k not in ("hidden_act", "sliding_window_size")}
        named = "hidden_activation" if "hidden_activation" in config else "hidden_act"
        common = cls._common(Fields({"head_dim": 256, **rest}, "model_config"))
        scalar = fields.get("query_pre_attn_scalar", None)
        return {
            **common,
            "tie_word_embeddings": True,
            "activation": cls._activation(fields, named),
            "embedding_scale": common["hidden_size"] ** 0.5,
            "attention_scale": None
            if scalar is None
            else fields.positive_float("query_pre_attn_scalar") ** -0.5,
        }
