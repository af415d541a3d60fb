"""Llama 2 and 3, and what has their shape (TinyLlama, SmolLM2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlc_widget.api.errors import UnsupportedModelError
from mlc_widget.engine.runtimes.tvm.architectures import ModelShape
from mlc_widget.engine.runtimes.tvm.fields import Fields
from mlc_widget.engine.runtimes.tvm.rope import Rope


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """The fields of MLC's `model_config` that make a Llama, by their names there."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    num_hidden_layers: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    rope: Rope

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LlamaConfig:
        """Read and check `model_config`.

        Raises:
            ModelFormatError: A field is missing or wrong.
            UnsupportedModelError: The model has a feature that we do not run.
        """
        fields = Fields(config, "model_config")
        hidden = fields.positive_int("hidden_size")
        heads = fields.positive_int("num_attention_heads")
        kv_heads = fields.positive_int("num_key_value_heads", heads)
        head_dim = fields.positive_int("head_dim", hidden // heads)
        theta = fields.positive_float("position_embedding_base", fields.get("rope_theta", 10000))
        if heads % kv_heads:
            raise fields.wrong("num_key_value_heads", f"must divide num_attention_heads, {heads}")
        if head_dim % 16:
            raise UnsupportedModelError(
                f"model_config.head_dim is {head_dim}; the tvm runtime runs multiples of 16.",
                param="model_config.head_dim",
            )
        for bias in ("attention_bias", "mlp_bias"):
            if fields.boolean(bias, default=False):
                raise UnsupportedModelError(
                    f"model_config.{bias} is true; the tvm runtime runs Llama without biases.",
                    param=f"model_config.{bias}",
                )
        return cls(
            hidden_size=hidden,
            intermediate_size=fields.positive_int("intermediate_size"),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            num_hidden_layers=fields.positive_int("num_hidden_layers"),
            head_dim=head_dim,
            vocab_size=fields.positive_int("vocab_size"),
            rms_norm_eps=fields.positive_float("rms_norm_eps"),
            tie_word_embeddings=fields.boolean("tie_word_embeddings", default=False),
            rope=Rope(theta, head_dim, fields.get("rope_scaling", None)),
        )

    @property
    def shape(self) -> ModelShape:
        """What the runtime must know."""
        return ModelShape(
            layers=self.num_hidden_layers,
            query_heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            rope=self.rope,
        )

    def compiled_from(self) -> Mapping[str, Any]:
        """All but the rotary embedding, whose tables are data."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "rope"}

    def build(self, build: Any) -> Any:
        """The module of this configuration; `build` is a `layers.Builder`."""
        from mlc_widget.engine.runtimes.tvm.architectures.llama_model import LlamaForCausalLM

        return LlamaForCausalLM(self, build)
