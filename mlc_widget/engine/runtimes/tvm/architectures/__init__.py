"""The supported model architectures, by MLC's `model_type`.

An architecture is one module with a configuration (an `Architecture`) and the layers that differ
from those in `llama`; docs/adding-models.md says how to add one. Only the modules of architectures
import TVM.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from mlc_widget.api.errors import UnsupportedModelError
from mlc_widget.api.request_values import shortened
from mlc_widget.engine.runtimes.tvm.model_shape import ModelShape
from mlc_widget.engine.store.unsupported_models import mechanism_of_kind


class Architecture(Protocol):
    """One family of models. An instance is one model's configuration."""

    @property
    def shape(self) -> ModelShape:
        """The shape of the model."""

    def compiled_from(self) -> Mapping[str, Any]:
        """Everything on which the compiled code depends, as JSON values."""

    def build(self, build: Any) -> Any:
        """The `relax.frontend.nn` module; see `compile.forward_spec` for its `forward`."""


ARCHITECTURES = {
    "llama": "llama.LlamaConfig",
    "mistral": "mistral.MistralConfig",
    "qwen2": "qwen2.Qwen2Config",
    "qwen3": "qwen3.Qwen3Config",
    "gemma": "gemma.GemmaConfig",
    "gemma2": "gemma2.Gemma2Config",
    "gemma3": "gemma3.Gemma3Config",
    "gemma3_text": "gemma3.Gemma3Config",
    "gpt2": "gpt2.GPT2Config",
    "gpt_neox": "gpt_neox.GPTNeoXConfig",
    "granite": "granite.GraniteConfig",
    "ministral3": "ministral3.Ministral3Config",
    "olmo2": "olmo2.OLMo2Config",
    "phi": "phi.PhiConfig",
    "phi-msft": "phi.PhiConfig",
    "phi3": "phi3.Phi3Config",
    "smollm3": "smollm3.SmolLM3Config",
    "stablelm": "stablelm.StableLMConfig",
    "bert": "bert.BertConfig",
}
"""The module and class of each `model_type`."""


def architecture_of(model_type: object, config: Mapping[str, Any]) -> Architecture:
    """The architecture of that name, with a model's `model_config`.

    Raises:
        UnsupportedModelError: The architecture, or a feature of the model, is not supported.
        ModelFormatError: A field is missing or wrong.
    """
    if isinstance(model_type, str) and model_type in ARCHITECTURES:
        module, name = ARCHITECTURES[model_type].split(".")
        architecture = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        made: Architecture = architecture.from_config(config)
        return made
    why = mechanism_of_kind(model_type)
    raise UnsupportedModelError(
        f"The tvm runtime does not support models of type {shortened(model_type)}"
        f"{f' ({why})' if why else ''}; it supports "
        f"{', '.join(ARCHITECTURES)}. Choose a model of one of these.",
        param="model_type",
    )
