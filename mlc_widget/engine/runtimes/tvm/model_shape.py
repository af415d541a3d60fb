"""The shape of a model, as far as the runtime must know it."""

from __future__ import annotations

from dataclasses import dataclass

from mlc_widget.engine.runtimes.tvm.rope import Rope


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the runtime itself must know of a model.

    Attributes:
        layers: Layers with keys and values.
        query_heads: Heads of queries in each.
        kv_heads: Heads of keys and values in each.
        head_dim: Dimensions of a head.
        vocab_size: Tokens that the model has logits for.
        rope: Its rotary embedding.
    """

    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    rope: Rope
