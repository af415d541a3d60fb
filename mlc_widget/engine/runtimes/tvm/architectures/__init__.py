"""The model architectures that the runtime runs, by MLC's `model_type`.

An architecture is one module with a configuration (an `Architecture`) and the layers that differ
from what `llama` has; docs/adding-models.md tells how to add one. What is said here needs no TVM;
the modules need it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from mlc_widget.api.errors import UnsupportedModelError
from mlc_widget.engine.runtimes.tvm.model_shape import ModelShape


class Architecture(Protocol):
    """One family of models. An instance is one model's configuration."""

    @property
    def shape(self) -> ModelShape:
        """What the runtime must know."""

    def compiled_from(self) -> Mapping[str, Any]:
        """What the compiled code depends on, as JSON values."""

    def build(self, build: Any) -> Any:
        """The `relax.frontend.nn` module, with a method `forward` as `compile` documents."""


ARCHITECTURES = {
    "llama": "llama.LlamaConfig",
    "mistral": "mistral.MistralConfig",
    "qwen2": "qwen2.Qwen2Config",
    "qwen3": "qwen3.Qwen3Config",
    "bert": "bert.BertConfig",
}
"""Module and class of each `model_type`."""


def architecture_of(model_type: object, config: Mapping[str, Any]) -> Architecture:
    """The architecture of that name, with a model's `model_config`.

    Raises:
        UnsupportedModelError: It is none that we run, or has a feature that we do not run.
        ModelFormatError: A field is missing or wrong.
    """
    if isinstance(model_type, str) and model_type in ARCHITECTURES:
        module, name = ARCHITECTURES[model_type].split(".")
        architecture = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        made: Architecture = architecture.from_config(config)
        return made
    raise UnsupportedModelError(
        f"The tvm runtime does not run models of type {model_type!r}; it runs "
        f"{', '.join(ARCHITECTURES)}. Choose a model of one of these.",
        param="model_type",
    )
