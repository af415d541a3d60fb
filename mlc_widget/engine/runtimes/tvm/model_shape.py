"""The shape of a model, as far as the runtime needs it."""

from __future__ import annotations

from dataclasses import dataclass

from mlc_widget.engine.store.rope import Rope


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The shape of a model, as far as the runtime needs it.

    Attributes:
        layers: The number of layers with keys and values.
        query_heads: The number of query heads in each.
        kv_heads: The number of key and value heads in each.
        head_dim: The dimension of a head.
        vocab_size: The number of tokens for which the model has logits.
        ropes: Its rotary embeddings, of equally many dimensions; a layer uses one, or none.
        positions: The number of positions that it has embeddings for; None if there is no limit.
    """

    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    ropes: tuple[Rope, ...]
    positions: int | None = None
