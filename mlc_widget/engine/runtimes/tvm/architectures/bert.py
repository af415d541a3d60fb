# mypy: disable-error-code="misc"
"""BERT encoders, such as snowflake-arctic-embed: every token attends to all of its text.

Attention is that of the decoders, on pages that all layers use in turn: the keys of a layer are
written, read, and then overwritten. It rotates by the angle zero, and every row has the position of
its text's last token, so that it attends to the whole text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor

from mlc_widget.api.errors import UnsupportedModelError
from mlc_widget.engine.runtimes.tvm.builder import AttentionSpec, Builder, Rows
from mlc_widget.engine.runtimes.tvm.model_shape import ModelShape
from mlc_widget.engine.store.fields import (
    MOST_FEATURES,
    MOST_HEADS,
    MOST_LAYERS,
    MOST_TOKENS,
    Fields,
)
from mlc_widget.engine.store.rope import Rope


@dataclass(frozen=True, slots=True)
class BertConfig:
    """The fields of a BERT's `model_config`, by MLC's names."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_hidden_layers: int
    vocab_size: int
    type_vocab_size: int
    context_window_size: int
    layer_norm_eps: float

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> BertConfig:
        """Read and check `model_config`.

        Raises:
            ModelFormatError: A field is missing or wrong.
            UnsupportedModelError: The model has a feature that is not supported.
        """
        fields = Fields(config, "model_config")
        hidden = fields.positive_int("hidden_size", most=MOST_FEATURES)
        heads = fields.positive_int("num_attention_heads", most=MOST_HEADS)
        if hidden % heads or hidden // heads % 16:
            raise UnsupportedModelError(
                f"model_config: hidden_size {hidden} with {heads} heads; the tvm runtime supports "
                "heads whose dimension is a multiple of 16.",
                param="model_config.num_attention_heads",
            )
        if (act := fields.get("hidden_act", "gelu")) != "gelu":
            raise UnsupportedModelError(
                f"model_config.hidden_act is {act!r}; the tvm runtime supports BERT with gelu.",
                param="model_config.hidden_act",
            )
        if (offset := fields.get("position_offset", 0)) != 0:
            raise UnsupportedModelError(
                f"model_config.position_offset is {offset!r}; the tvm runtime supports only 0.",
                param="model_config.position_offset",
            )
        return cls(
            hidden_size=hidden,
            intermediate_size=fields.positive_int(
                "intermediate_size", 4 * hidden, most=MOST_FEATURES
            ),
            num_attention_heads=heads,
            num_hidden_layers=fields.positive_int("num_hidden_layers", most=MOST_LAYERS),
            vocab_size=fields.positive_int("vocab_size", most=MOST_TOKENS),
            type_vocab_size=fields.positive_int("type_vocab_size", 2, most=MOST_TOKENS),
            context_window_size=fields.positive_int("context_window_size", most=MOST_TOKENS),
            layer_norm_eps=fields.positive_float("layer_norm_eps", 1e-12, most=1.0),
        )

    @property
    def shape(self) -> ModelShape:
        """The shape of the model, with one layer, as all layers share the same pages."""
        head_dim = self.hidden_size // self.num_attention_heads
        return ModelShape(
            layers=1,
            query_heads=self.num_attention_heads,
            kv_heads=self.num_attention_heads,
            head_dim=head_dim,
            vocab_size=self.vocab_size,
            ropes=(Rope(1.0, head_dim),),
        )

    def compiled_from(self) -> Mapping[str, Any]:
        """All fields."""
        return dataclasses.asdict(self)

    def build(self, build: Builder) -> nn.Module:
        """The module of this configuration."""
        return BertModel(self, build)


class BertEmbeddings(nn.Module):
    """The sum of the embeddings of word, position and token type, normalized."""

    def __init__(self, c: BertConfig, build: Builder) -> None:
        super().__init__()
        self.word_embeddings = build.embedding(c.vocab_size, c.hidden_size)
        self.position_embeddings = build.embedding(c.context_window_size, c.hidden_size)
        self.token_type_embeddings = build.embedding(c.type_vocab_size, c.hidden_size)
        self.LayerNorm = build.layer_norm(c.hidden_size, c.layer_norm_eps)

    def forward(self, ids: Tensor, position: Tensor, kind: Tensor) -> Tensor:
        """(n,) int32 each → (n, pad(hidden))."""
        return self.LayerNorm(
            self.word_embeddings.embed(ids),
            self.token_type_embeddings.embed(kind),
            self.position_embeddings.embed(position),
        )


class BertSelfAttention(nn.Module):
    """The projection to queries, keys and values, and attention."""

    def __init__(self, c: BertConfig, build: Builder) -> None:
        super().__init__()
        heads, head_dim = c.num_attention_heads, c.hidden_size // c.num_attention_heads
        self.attention = build.attention(AttentionSpec(heads, heads, head_dim), 0)
        self.qkv = build.linear(c.hidden_size, 3 * c.hidden_size, bias=True)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """(n, pad(hidden)) → the same."""
        return self.attention(self.qkv(x), rows)


class BertOutput(nn.Module):
    """LayerNorm(residual + dense(x)), after attention and after the MLP."""

    def __init__(self, c: BertConfig, build: Builder, inputs: int) -> None:
        super().__init__()
        self.dense = build.linear(inputs, c.hidden_size, bias=True)
        self.LayerNorm = build.layer_norm(c.hidden_size, c.layer_norm_eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """(n, pad(inputs)), (n, pad(hidden)) → (n, pad(hidden))."""
        return self.LayerNorm(self.dense(x, residual))


class BertAttention(nn.Module):
    """Self-attention with its output layer."""

    def __init__(self, c: BertConfig, build: Builder) -> None:
        super().__init__()
        self.self = BertSelfAttention(c, build)
        self.output = BertOutput(c, build, c.hidden_size)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """(n, pad(hidden)) → the same."""
        return self.output(self.self(x, rows), x)


class BertIntermediate(nn.Module):
    """GELU(dense(x))."""

    def __init__(self, c: BertConfig, build: Builder) -> None:
        super().__init__()
        self.build = build
        self.dense = build.linear(c.hidden_size, c.intermediate_size, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(n, pad(hidden)) → (n, pad(intermediate))."""
        return self.build.activation(self.dense(x), "gelu")


class BertLayer(nn.Module):
    """One layer."""

    def __init__(self, c: BertConfig, build: Builder) -> None:
        super().__init__()
        self.attention = BertAttention(c, build)
        self.intermediate = BertIntermediate(c, build)
        self.output = BertOutput(c, build, c.intermediate_size)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """(n, pad(hidden)) → the same."""
        x = self.attention(x, rows)
        return self.output(self.intermediate(x), x)


class BertEncoder(nn.Module):
    """All layers."""

    def __init__(self, c: BertConfig, build: Builder) -> None:
        super().__init__()
        self.layer = nn.ModuleList([BertLayer(c, build) for _ in range(c.num_hidden_layers)])

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """(n, pad(hidden)) → the same."""
        for layer in self.layer:
            x = layer(x, rows)
        return x


class BertModel(nn.Module):
    """The whole model; parameters have MLC's names."""

    def __init__(self, c: BertConfig, build: Builder) -> None:
        super().__init__()
        self.embeddings = BertEmbeddings(c, build)
        self.encoder = BertEncoder(c, build)

    def forward(
        self,
        ids: Tensor,
        kind: Tensor,
        position: Tensor,
        last: Tensor,
        slot: Tensor,
        page_table: Tensor,
        tile: Tensor,
        cos: Tensor,
        sin: Tensor,
        k_pages: Tensor,
        v_pages: Tensor,
    ) -> Tensor:
        """Run one batch; see `encoder.EncoderProgram`."""
        rows = Rows(last, slot, page_table, tile, cos, sin, k_pages, v_pages)
        return self.encoder(self.embeddings(ids, position, kind), rows)
