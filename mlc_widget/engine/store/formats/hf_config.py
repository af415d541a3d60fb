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
    tied = fields.boolean("tie_word_embeddings", default=False)
    if config.get("tie_word_embeddings") is None:
        tied = not has_output
    theta, scaling = _rope(config)
    made: dict[str, Any] = {
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
    }
    # MLC's name of the rotary base, which differs from model to model.
    kind = config["model_type"]
    base = "rope_theta" if kind.startswith("qwen") else "position_embedding_base"
    if not kind.startswith("gemma"):
        made["hidden_act"] = _activation(fields)
    return {**made, base: theta, **_OWN[kind](fields)}


def _activation(fields: Fields) -> str:
    if (act := fields.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise _unsupported("hidden_act", act, "silu runs")
    return "silu"


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
    if isinstance(config.get("vision_config"), Mapping):
        raise UnsupportedModelError(
            f"{CONFIG}: the model also reads images (vision_config), which does not run. Take a "
            "version of it for text alone, or a GGUF file, which has the text model.",
            param="vision_config",
        )
    if kind not in _OWN:
        raise UnsupportedModelError(
            f"{CONFIG}: model_type is {shortened(kind)}; those that run from safetensors are "
            f"{', '.join(_OWN)}.",
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


def _gemma(fields: Fields) -> dict[str, Any]:
    named = "hidden_activation" if fields.get("hidden_activation", None) else "hidden_act"
    act = fields.choice(named, ("gelu_pytorch_tanh", "gelu"), "gelu_pytorch_tanh")
    if fields.boolean("attention_bias", default=False):
        raise _unsupported("attention_bias", True, "Gemma runs without")
    # All Gemmas are tied; config.json may leave it to the default of the model's class.
    return {"hidden_activation": act, "attention_bias": False, "tie_word_embeddings": True}


def _gemma2(fields: Fields) -> dict[str, Any]:
    scalar = fields.positive_float("query_pre_attn_scalar", 256, most=MOST_FEATURES)
    found = {
        **_gemma(fields),
        "query_pre_attn_scalar": scalar,
        "sliding_window": fields.positive_int("sliding_window", 4096, most=MOST_TOKENS),
    }
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if fields.get(cap, None) is not None:
            found[cap] = fields.positive_float(cap)
    return found


def _gemma3(fields: Fields) -> dict[str, Any]:
    layers = fields.positive_int("num_hidden_layers", most=MOST_LAYERS)
    kinds = fields.get("layer_types", None)
    pattern = fields.positive_int("sliding_window_pattern", 6)
    if isinstance(kinds, list):
        full = [i + 1 for i, kind in enumerate(kinds) if kind == "full_attention"]
        pattern = full[0] if full else layers + 1
        if full != list(range(pattern, layers + 1, pattern)):
            raise _unsupported(
                "layer_types", kinds, "one full layer after equally many others runs"
            )
    local = fields.nested("rope_parameters").nested("sliding_attention")
    theta = local.get("rope_theta", fields.get("rope_local_base_freq", 10000.0))
    return {
        **_gemma2(fields),
        "sliding_window_pattern": pattern,
        "rope_local_base_freq": Fields({"rope_local_base_freq": theta}, "", CONFIG).positive_float(
            "rope_local_base_freq", least=1.0
        ),
    }


_OWN: Final = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
}
"""What only some kinds of models have, by their `model_type`."""


def _rope(config: Mapping[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """The base of the rotary embedding, and MLC's ``rope_scaling``."""
    # Since transformers 5 both are in one object.
    name = "rope_parameters" if config.get("rope_parameters") is not None else "rope_scaling"
    given = config.get(name)
    if isinstance(given, Mapping) and isinstance(given.get("full_attention"), Mapping):
        given = given["full_attention"]  # each kind of layer has its own
    scaling = Fields({} if given is None else given, name, CONFIG)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if not isinstance(kind, str) or kind not in _ROPE:
        raise _unsupported(f"{name}.rope_type", kind, f"{', '.join(_ROPE)} run")
    base = scaling if name == "rope_parameters" else Fields(config, "", CONFIG)
    default = 1e6 if config.get("model_type") == "gemma3_text" else 10000.0
    theta = base.positive_float("rope_theta", default, least=1.0)
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
