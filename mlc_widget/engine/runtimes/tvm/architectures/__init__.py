"""The model architectures that the runtime runs, by MLC's `model_type`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mlc_widget.api.errors import UnsupportedModelError
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


class Architecture(Protocol):
    """One family of models. An instance is one model's configuration."""

    @property
    def shape(self) -> ModelShape:
        """What the runtime must know."""

    def compiled_from(self) -> Mapping[str, Any]:
        """What the compiled code depends on, as JSON values."""

    def build(self, build: Any) -> Any:
        """The `relax.frontend.nn` module, with a method `forward` as `compile` documents."""


def architecture_of(model_type: object, config: Mapping[str, Any]) -> Architecture:
    """The architecture of that name, with a model's `model_config`.

    Raises:
        UnsupportedModelError: It is none that we run, or has a feature that we do not run.
        ModelFormatError: A field is missing or wrong.
    """
    from mlc_widget.engine.runtimes.tvm.architectures.llama import LlamaConfig

    known = {"llama": LlamaConfig.from_config}
    if isinstance(model_type, str) and model_type in known:
        return known[model_type](config)
    raise UnsupportedModelError(
        f"The tvm runtime does not run models of type {model_type!r}; it runs "
        f"{', '.join(known)}. Choose a model of one of these.",
        param="model_type",
    )
