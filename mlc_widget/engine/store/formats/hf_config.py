"""Makes the contents of mlc-chat-config.json from the files that transformers saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.api.request_values import shortened
from mlc_widget.engine.store.families import common_config
from mlc_widget.engine.store.fields import (
    MOST_FEATURES,
    MOST_HEAD_DIM,
    MOST_HEADS,
    MOST_LAYERS,
    MOST_TOKENS,
    Fields,
)
from mlc_widget.engine.store.transformers_files import CONFIG
from mlc_widget.engine.store.unsupported_models import (
    EXPERTS,
    RECURRENT,
    mechanism_of_kind,
    missing_mechanism,
)

_ROPE: Final = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        *("factor", "low_freq_factor", "high_freq_factor"),
        "original_max_position_embeddings",
    ),
    "yarn": ("factor",),
    "longrope": (),
}
"""Kinds of rotary embeddings that run, and the numbers that they need."""
_ROPE_MORE: Final = {
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
    "longrope": ("attention_factor", "factor"),
}
"""Numbers that they may have."""
_LAYER_NORM: Final = frozenset({"gpt2", "gpt_neox", "phi", "stablelm"})
_DRAWING: Final = {n: n for n in ("temperature", "top_k", "top_p", "min_p", "typical_p")}
"""Fields of generation_config.json that transformers ignores where it does not sample, and the
request fields of which they are the defaults."""
_ALWAYS: Final = {"repetition_penalty": "repetition_penalty", "max_new_tokens": "max_tokens"}
"""Those that always hold."""
_HEAD_STEP: Final = 16
_HEAD_DIM: Final = {
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), 256),
    **dict.fromkeys(("qwen3", "ministral3"), 128),
}
_THETA: Final = {"gemma3_text": 1e6, "ministral3": 1e6, "smollm3": 2e6}
_EPS: Final = dict.fromkeys(("ministral3", "olmo2", "phi3"), 1e-5)
"""transformers' defaults, where they are not those of Llama."""
_ATTENTION: Final = ("attention", "full_attention")
"""What older and newer files of Granite 4 call a layer that attends to all positions."""


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
    config = common_config(config)
    fields = Fields(config, "", CONFIG)
    hidden = fields.positive_int("hidden_size", most=MOST_FEATURES)
    heads = fields.positive_int("num_attention_heads", most=MOST_HEADS)
    kv_heads = fields.positive_int("num_key_value_heads", heads, most=heads)
    if heads % kv_heads:
        raise fields.wrong("num_key_value_heads", f"must divide num_attention_heads, {heads}")
    kind = config["model_type"]
    head_dim = fields.positive_int(
        "head_dim", _HEAD_DIM.get(kind, hidden // heads), most=MOST_HEAD_DIM
    )
    if head_dim % _HEAD_STEP:
        raise _unsupported("head_dim", head_dim, f"only multiples of {_HEAD_STEP} are supported")
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
        **_eps(fields, kind),
        "tie_word_embeddings": tied,
        "context_window_size": fields.positive_int("max_position_embeddings", most=MOST_TOKENS),
        "rope_scaling": scaling,
    }
    # MLC's name of the rotary base, which differs from model to model.
    base = "rope_theta" if kind.startswith("qwen") else "position_embedding_base"
    if kind in _LAYER_NORM:
        made["hidden_act"] = fields.string("hidden_act", "gelu" if kind == "gpt_neox" else "silu")
    elif not kind.startswith("gemma"):
        made["hidden_act"] = _activation(fields)
    share = fields.nested("rope_parameters").get(
        "partial_rotary_factor", fields.get("partial_rotary_factor", None)
    )
    if share is not None:
        made["partial_rotary_factor"] = _share(share, "partial_rotary_factor")
    return {**made, base: theta, **_OWN[kind](fields)}


def mlc_model_type(config: Mapping[str, Any]) -> str:
    """MLC's `model_type` of a model that `model_config` accepts."""
    kind: str = config["model_type"]
    return _MLC.get(kind, kind)


def _share(value: object, name: str) -> float:
    """The share of a head's dimensions that are rotated."""
    return Fields({name: value}, "", CONFIG).positive_float(name, most=1.0)


def _eps(fields: Fields, kind: str) -> dict[str, float]:
    if kind in _LAYER_NORM:
        return {"layer_norm_eps": fields.positive_float("layer_norm_eps", 1e-5, most=1.0)}
    return {"rms_norm_eps": fields.positive_float("rms_norm_eps", _EPS.get(kind, 1e-6), most=1.0)}


def _activation(fields: Fields) -> str:
    if (act := fields.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise _unsupported("hidden_act", act, "only silu is supported")
    return "silu"


def _check_kind(config: Mapping[str, Any]) -> None:
    quantized = config.get("quantization_config")
    if quantized is not None:
        method = quantized.get("quant_method") if isinstance(quantized, Mapping) else None
        named = method if isinstance(method, str) else shortened(quantized)
        raise UnsupportedModelError(
            f"{CONFIG}: quantization_config says that the weights are packed by {named[:60]}, "
            "which is not supported. Use the model that it was made from, in BF16, F16 or F32, "
            "which is quantised while it is loaded; or a GGUF file of it.",
            param="quantization_config",
        )
    kind = config.get("model_type")
    if isinstance(config.get("vision_config"), Mapping):
        raise UnsupportedModelError(
            f"{CONFIG}: the model also reads images (vision_config), which is not supported. Use "
            "a text-only version, or a GGUF file, which has the text model.",
            param="vision_config",
        )
    known = isinstance(kind, str) and kind in _OWN
    why = missing_mechanism(config) or (None if known else mechanism_of_kind(kind))
    if why is not None or not known:
        because = f": {why}, which is not supported" if why else ""
        raise UnsupportedModelError(
            f"{CONFIG}: model_type is {shortened(kind)}{because}; those that are supported from "
            f"safetensors are {', '.join(_OWN)}.",
            param="model_type",
        )


def _llama(fields: Fields) -> dict[str, Any]:
    _without(fields, "mlp_bias")
    return {"attention_bias": fields.boolean("attention_bias", default=False)}


def _mistral(fields: Fields, window: int = 4096) -> dict[str, Any]:
    """The window; `window` is that of files that do not say, where null is none."""
    window = fields.get("sliding_window", -1 if fields.has("sliding_window") else window)
    return {
        "sliding_window_size": window
        if window == -1
        else fields.positive_int("sliding_window", window)
    }


def _qwen2(fields: Fields) -> dict[str, Any]:
    layers = fields.positive_int("num_hidden_layers", most=MOST_LAYERS)
    # The layers before this number attend to all.
    if fields.boolean("use_sliding_window", default=False) and (
        fields.positive_int("max_window_layers", 28) < layers
    ):
        raise _unsupported("use_sliding_window", True, "Qwen is supported only without it")
    return {}


def _qwen3(fields: Fields) -> dict[str, Any]:
    return {**_qwen2(fields), "attention_bias": fields.boolean("attention_bias", default=False)}


def _gemma(fields: Fields) -> dict[str, Any]:
    named = "hidden_activation" if fields.get("hidden_activation", None) else "hidden_act"
    act = fields.choice(named, ("gelu_pytorch_tanh", "gelu"), "gelu_pytorch_tanh")
    # EmbeddingGemma's tokens attend to those after them, too.
    _without(fields, "attention_bias", "use_bidirectional_attention")
    # All Gemmas are tied; config.json may leave it to the default of the model's class.
    return {"hidden_activation": act, "attention_bias": False, "tie_word_embeddings": True}


def _gemma2(fields: Fields) -> dict[str, Any]:
    kinds = fields.get("layer_types", None)
    if isinstance(kinds, list) and any(
        kind != ("full_attention" if i % 2 else "sliding_attention") for i, kind in enumerate(kinds)
    ):
        raise _unsupported("layer_types", kinds, "only a window in every second layer is supported")
    found = _gemma_windows(fields)
    for cap, usual in (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)):
        if not fields.has(cap) or fields.get(cap, None) is not None:  # null is none
            found[cap] = fields.positive_float(cap, usual)
    return found


def _gemma_windows(fields: Fields) -> dict[str, Any]:
    """What Gemma 2 and 3 have."""
    scalar = fields.positive_float("query_pre_attn_scalar", 256, most=MOST_FEATURES)
    return {
        **_gemma(fields),
        "query_pre_attn_scalar": scalar,
        "sliding_window": fields.positive_int("sliding_window", 4096, most=MOST_TOKENS),
    }


def _gemma3(fields: Fields) -> dict[str, Any]:
    layers = fields.positive_int("num_hidden_layers", most=MOST_LAYERS)
    kinds = fields.get("layer_types", None)
    pattern = fields.positive_int("sliding_window_pattern", 6)
    if isinstance(kinds, list):
        full = [i + 1 for i, kind in enumerate(kinds) if kind == "full_attention"]
        pattern = full[0] if full else layers + 1
        if full != list(range(pattern, layers + 1, pattern)):
            raise _unsupported(
                "layer_types",
                kinds,
                "only a regular pattern is supported: full attention in every n-th layer",
            )
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if fields.get(cap, None) is not None:
            raise _unsupported(cap, fields.get(cap), "Gemma 3 is supported only without it")
    local = fields.nested("rope_parameters").nested("sliding_attention")
    theta = local.get("rope_theta", fields.get("rope_local_base_freq", 10000.0))
    return {
        **_gemma_windows(fields),
        "sliding_window_pattern": pattern,
        "rope_local_base_freq": Fields({"rope_local_base_freq": theta}, "", CONFIG).positive_float(
            "rope_local_base_freq", least=1.0
        ),
    }


def _without(fields: Fields, *names: str) -> None:
    for name in names:
        if fields.boolean(name, default=False):
            raise _unsupported(name, True, "such models are supported only without it")


def _only_with(fields: Fields, *names: str) -> None:
    for name in names:
        if not fields.boolean(name, default=True):
            raise _unsupported(name, False, "such models are supported only with it")


def _granite(fields: Fields) -> dict[str, Any]:
    names = ("embedding_multiplier", "attention_multiplier", "residual_multiplier")
    multipliers = {n: fields.positive_float(n, 1.0) for n in (*names, "logits_scaling")}
    return {**_llama(fields), **multipliers}


def _granite4(fields: Fields) -> dict[str, Any]:
    # Other layers and experts are refused before; these are what transformers takes for absence.
    layers = fields.get("layer_types", fields.get("layers_block_type", None))
    if layers is None:
        raise _unsupported("layer_types", None, f"without it, {RECURRENT}")
    if not isinstance(layers, list) or any(x not in _ATTENTION for x in layers):
        raise _unsupported("layer_types", layers, f"only {' or '.join(_ATTENTION)} is supported")
    if fields.get("num_local_experts", None) is None:
        raise _unsupported("num_local_experts", None, f"without it, {EXPERTS}")
    if (kind := fields.get("position_embedding_type", None)) != "rope":
        raise _unsupported("position_embedding_type", kind, "only rope is supported")
    return _granite(fields)


def _smollm3(fields: Fields) -> dict[str, Any]:
    _without(fields, "use_sliding_window")
    step = fields.positive_int("no_rope_layer_interval", 4)
    found = {**_llama(fields), "no_rope_layer_interval": step}
    layers = fields.get("no_rope_layers", None)
    return found if layers is None else {**found, "no_rope_layers": layers}


def _phi3(fields: Fields) -> dict[str, Any]:
    window = fields.get("sliding_window", None)
    original = fields.get("original_max_position_embeddings", None)
    found = {"max_position_embeddings": fields.positive_int("max_position_embeddings")}
    if window is not None:
        found["sliding_window"] = fields.positive_int("sliding_window", most=MOST_TOKENS)
    if original is not None:
        found["original_max_position_embeddings"] = fields.positive_int(
            "original_max_position_embeddings"
        )
    return found


def _stablelm(fields: Fields) -> dict[str, Any]:
    names = ("use_qkv_bias", "qk_layernorm", "use_parallel_residual")
    return {name: fields.boolean(name, default=False) for name in names}


def _gpt_neox(fields: Fields) -> dict[str, Any]:
    _only_with(fields, "attention_bias")
    share = fields.nested("rope_parameters").get(
        "partial_rotary_factor", fields.get("rotary_pct", 0.25)
    )
    return {
        "rotary_pct": _share(share, "rotary_pct"),
        "use_parallel_residual": fields.boolean("use_parallel_residual", default=True),
    }


def _gpt2(fields: Fields) -> dict[str, Any]:
    _without(fields, "scale_attn_by_inverse_layer_idx")
    _only_with(fields, "scale_attn_weights", "tie_word_embeddings")
    size = fields.positive_int("max_position_embeddings", most=MOST_TOKENS)
    # MLC's folders have the embedding once more, as the output layer.
    return {"max_position_embeddings": size, "tie_word_embeddings": False}


def _phi(fields: Fields) -> dict[str, Any]:
    _without(fields, "qk_layernorm")
    return {}


def _ministral3(fields: Fields) -> dict[str, Any]:
    rope = fields.get("rope_parameters", {})
    return {**_mistral(fields, window=-1), "rope_parameters": rope}


_OWN: Final = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "granite": _granite,
    "granitemoehybrid": _granite4,
    "ministral3": _ministral3,
    "olmo2": _llama,
    "phi": _phi,
    "phi3": _phi3,
    "smollm3": _smollm3,
    "stablelm": _stablelm,
}
"""What only some kinds of models have, by their `model_type`."""


_MLC: Final = {"granitemoehybrid": "granite"}
"""MLC's names, where they are others."""


def _rope(config: Mapping[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """The base of the rotary embedding, and MLC's ``rope_scaling``."""
    # Since transformers 5 both are in one object.
    name = "rope_parameters" if config.get("rope_parameters") is not None else "rope_scaling"
    given = config.get(name)
    if isinstance(given, Mapping) and isinstance(given.get("full_attention"), Mapping):
        given = given["full_attention"]  # each kind of layer has its own
    scaling = Fields({} if given is None else given, name, CONFIG)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "su":
        kind = "longrope"
    if not isinstance(kind, str) or kind not in _ROPE:
        raise _unsupported(f"{name}.rope_type", kind, f"the supported types are {', '.join(_ROPE)}")
    base = scaling if name == "rope_parameters" else Fields(config, "", CONFIG)
    default = _THETA.get(str(config.get("model_type")), 10000.0)
    theta = base.positive_float("rope_theta", default, least=1.0)
    if kind == "default":
        return theta, None
    numbers: dict[str, Any] = {
        key: scaling.positive_float(key, least=1e-6, most=1e9) for key in _ROPE[kind]
    }
    if kind in _ROPE_MORE:
        numbers |= _long(config, scaling, kind)
    if kind == "llama3" and not numbers["low_freq_factor"] < numbers["high_freq_factor"]:
        raise scaling.wrong("high_freq_factor", "must be greater than low_freq_factor")
    return theta, {"rope_type": kind, **numbers}


def _long(config: Mapping[str, Any], scaling: Fields, kind: str) -> dict[str, Any]:
    """The optional fields of YaRN and LongRoPE, and LongRoPE's lists of factors."""
    fields = Fields(config, "", CONFIG)
    most = fields.positive_int("max_position_embeddings", most=MOST_TOKENS)
    original = scaling.get(
        "original_max_position_embeddings", fields.get("original_max_position_embeddings", most)
    )
    found: dict[str, Any] = {
        "original_max_position_embeddings": Fields(
            {"original_max_position_embeddings": original}, "", CONFIG
        ).positive_int("original_max_position_embeddings"),
        "max_position_embeddings": most,
    }
    for key in _ROPE_MORE[kind]:
        if scaling.get(key, None) is not None:
            found[key] = scaling.positive_float(key, least=1e-6, most=1e9)
    if kind == "yarn":
        return {**found, "truncate": scaling.boolean("truncate", default=True)}
    for key in ("short_factor", "long_factor"):
        values = scaling.get(key)
        if not isinstance(values, list):
            raise scaling.wrong(key, "must be a list of numbers")
        found[key] = scaling.positive_floats(key, len(values))
    return found


def sampling(generation: Mapping[str, Any]) -> dict[str, float]:
    """The defaults of requests that generation_config.json gives."""
    found = {}
    names = _ALWAYS if generation.get("do_sample") is False else {**_DRAWING, **_ALWAYS}
    for name, field in names.items():
        value = generation.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelFormatError(
                f"generation_config.json: {name} is {shortened(value)}; it must be a number.",
                param=name,
            )
        found[field] = value if isinstance(value, int) else float(value)
    return found


def _unsupported(name: str, value: object, runs: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{CONFIG}: {name} is {shortened(value)}; {runs}.", param=name)
