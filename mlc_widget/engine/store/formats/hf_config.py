"""Makes the contents of mlc-chat-config.json from the files that transformers saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.api.request_values import shortened
from mlc_widget.engine.store.fields import (
    MOST_FEATURES,
    MOST_HEAD_DIM,
    MOST_HEADS,
    MOST_LAYERS,
    MOST_TOKENS,
    Fields,
)
from mlc_widget.engine.store.transformers_files import CONFIG

MODEL_TYPES: Final = ("llama", "mistral", "qwen2", "qwen3")
_ROPE: Final = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        *("factor", "low_freq_factor", "high_freq_factor"),
        "original_max_position_embeddings",
    ),
}
"""Kinds of rotary embeddings that run, and their numbers."""
_SAMPLING: Final = ("temperature", "top_p", "repetition_penalty")
_HEAD_STEP: Final = 16


def model_config(config: Mapping[str, Any], *, has_output: bool) -> dict[str, Any]:
    """MLC's ``model_config``.

    Args:
        config: The content of config.json.
        has_output: Whether the model has separate weights for the output layer.

    Raises:
        ModelFormatError: A field is missing or wrong.
        UnsupportedModelError: The model, or a feature of it, is not supported.
    """
    _check_kind(config)
    fields = Fields(config, "", CONFIG)
    hidden = fields.positive_int("hidden_size", most=MOST_FEATURES)
    heads = fields.positive_int("num_attention_heads", most=MOST_HEADS)
    kv_heads = fields.positive_int("num_key_value_heads", heads, most=heads)
    if heads % kv_heads:
        raise fields.wrong("num_key_value_heads", f"must divide num_attention_heads, {heads}")
    head_dim = fields.positive_int("head_dim", hidden // heads, most=MOST_HEAD_DIM)
    if head_dim % _HEAD_STEP:
        raise _unsupported("head_dim", head_dim, f"multiples of {_HEAD_STEP} run")
    if (act := fields.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise _unsupported("hidden_act", act, "silu runs")
    tied = fields.boolean("tie_word_embeddings", default=False)
    if config.get("tie_word_embeddings") is None:
        tied = not has_output
    theta, scaling = _rope(config)
    made = {
        "hidden_size": hidden,
        "intermediate_size": fields.positive_int("intermediate_size", most=MOST_FEATURES),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": fields.positive_int("num_hidden_layers", most=MOST_LAYERS),
        "head_dim": head_dim,
        "vocab_size": fields.positive_int("vocab_size", most=MOST_TOKENS),
        "rms_norm_eps": fields.positive_float("rms_norm_eps", 1e-6, most=1.0),
        "tie_word_embeddings": tied,
        "context_window_size": fields.positive_int("max_position_embeddings", most=MOST_TOKENS),
        "rope_scaling": scaling,
        "hidden_act": "silu",
    }
    # MLC's name of the rotary base, which differs from model to model.
    base = "rope_theta" if config["model_type"].startswith("qwen") else "position_embedding_base"
    return {**made, base: theta, **_OWN[config["model_type"]](fields)}


def _check_kind(config: Mapping[str, Any]) -> None:
    quantized = config.get("quantization_config")
    if quantized is not None:
        method = quantized.get("quant_method") if isinstance(quantized, Mapping) else None
        named = method if isinstance(method, str) else shortened(quantized)
        raise UnsupportedModelError(
            f"{CONFIG}: quantization_config says that the weights are packed by {named[:60]}, "
            "which is not read. Take the model that it was made from, in BF16, F16 or F32, which "
            "is quantised as it is loaded; or a GGUF file of it.",
            param="quantization_config",
        )
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise UnsupportedModelError(
            f"{CONFIG}: model_type is {shortened(kind)}; those that run from safetensors are "
            f"{', '.join(MODEL_TYPES)}.",
            param="model_type",
        )


def _llama(fields: Fields) -> dict[str, Any]:
    for bias in ("attention_bias", "mlp_bias"):
        if fields.boolean(bias, default=False):
            raise _unsupported(bias, True, "Llama runs without")
    return {}


def _mistral(fields: Fields) -> dict[str, Any]:
    window = fields.get("sliding_window", -1)
    return {
        "sliding_window_size": window if window == -1 else fields.positive_int("sliding_window")
    }


def _qwen2(fields: Fields) -> dict[str, Any]:
    layers = fields.positive_int("num_hidden_layers", most=MOST_LAYERS)
    # The layers before this number attend to all.
    if fields.boolean("use_sliding_window", default=False) and (
        fields.positive_int("max_window_layers", 28) < layers
    ):
        raise _unsupported("use_sliding_window", True, "Qwen runs without")
    return {}


def _qwen3(fields: Fields) -> dict[str, Any]:
    return {**_qwen2(fields), "attention_bias": fields.boolean("attention_bias", default=False)}


_OWN: Final = {"llama": _llama, "mistral": _mistral, "qwen2": _qwen2, "qwen3": _qwen3}


def _rope(config: Mapping[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """The base of the rotary embedding, and MLC's ``rope_scaling``."""
    # Since transformers 5 both are in one object.
    name = "rope_parameters" if config.get("rope_parameters") is not None else "rope_scaling"
    given = config.get(name)
    scaling = Fields({} if given is None else given, name, CONFIG)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if not isinstance(kind, str) or kind not in _ROPE:
        raise _unsupported(f"{name}.rope_type", kind, f"{', '.join(_ROPE)} run")
    base = scaling if name == "rope_parameters" else Fields(config, "", CONFIG)
    theta = base.positive_float("rope_theta", 10000.0, least=1.0)
    if kind == "default":
        return theta, None
    numbers = {key: scaling.positive_float(key, least=1e-6, most=1e9) for key in _ROPE[kind]}
    if kind == "llama3" and not numbers["low_freq_factor"] < numbers["high_freq_factor"]:
        raise scaling.wrong("high_freq_factor", "must be greater than low_freq_factor")
    return theta, {"rope_type": kind, **numbers}


def sampling(generation: Mapping[str, Any]) -> dict[str, float]:
    """The defaults of requests that generation_config.json gives."""
    found = {}
    for name in _SAMPLING:
        value = generation.get(name)
        # transformers ignores these where it does not sample.
        if value is None or (generation.get("do_sample") is False and name != _SAMPLING[-1]):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelFormatError(
                f"generation_config.json: {name} is {shortened(value)}; it must be a number.",
                param=name,
            )
        found[name] = float(value)
    return found


def _unsupported(name: str, value: object, runs: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{CONFIG}: {name} is {shortened(value)}; {runs}.", param=name)
