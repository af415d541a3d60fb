# mypy: disable-error-code="misc"
"""GPT-2: learned embeddings of positions instead of rotation; LayerNorm, biases, GELU, no gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from mlc_widget.api.errors import UnsupportedModelError
from mlc_widget.engine.runtimes.tvm.architectures.gpt_neox import GPTNeoXConfig
from mlc_widget.engine.runtimes.tvm.architectures.llama import LlamaModel
from mlc_widget.engine.runtimes.tvm.builder import Activation, AttentionSpec, Builder, Rows
from mlc_widget.engine.store.fields import MOST_TOKENS, Fields
from mlc_widget.engine.store.rope import Rope


@dataclass(frozen=True, slots=True)
class GPT2Config(GPTNeoXConfig):
    """Llama's fields; files have them under GPT-2's names (`families.common_config`)."""

    family: ClassVar[str] = "GPT-2"
    activations: ClassVar[Mapping[str, Activation]] = {
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "gelu": "gelu",
    }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read and check `model_config`; raises as `LlamaConfig.from_config`."""
        fields = Fields(config, "model_config")
        if fields.boolean("scale_attn_by_inverse_layer_idx", default=False):
            raise UnsupportedModelError(
                "model_config.scale_attn_by_inverse_layer_idx is true; the tvm runtime supports "
                "GPT-2 only without it.",
                param="model_config.scale_attn_by_inverse_layer_idx",
            )
        # The context window may be made smaller than the table of positions, which has its size.
        return cls(
            **cls._common(fields, norm="layer_norm_eps"),
            qkv_bias=True,
            o_bias=True,
            parallel=False,
            positions=fields.positive_int("max_position_embeddings", most=MOST_TOKENS),
        )

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """None."""
        return ()

    def attention_spec(self, layer: int) -> AttentionSpec:
        """The parameters of a layer's attention."""
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        return AttentionSpec(heads, kv_heads, self.head_dim, rotary=None)

    def model(self, build: Builder) -> nn.Module:
        """The embedding, the layers and the last norm."""
        return GPT2Model(self, build)


class GPT2Model(LlamaModel):
    """A model whose embedding is that of the token and that of its position."""

    def __init__(self, c: GPT2Config, build: Builder) -> None:
        super().__init__(c, build)
        assert c.positions is not None
        self.embed_positions = build.embedding(c.positions, c.hidden_size)

    def embed(self, ids: Tensor, rows: Rows) -> Tensor:
        """(n,) ids → (n, hidden)."""
        positions = self.embed_positions.embed(rows.position)
        return self.build.scaled(positions, 1.0, self.embed_tokens.embed(ids))
