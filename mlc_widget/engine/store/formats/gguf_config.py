"""Translates a GGUF file's metadata to the fields of mlc-chat-config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.api.request_values import shortened
from mlc_widget.engine.store.fields import MISSING, Fields
from mlc_widget.engine.store.formats.gguf_file import GGUFModel
from mlc_widget.engine.store.unsupported_models import mechanism_of_kind, missing_mechanism

QUANTIZATION: Final = "ggml"
"""The `quantization` of models in which each tensor has its own type."""

_ARCHITECTURES: Final = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gpt2": "gpt2",
    "gptneox": "gpt_neox",
    "granite": "granite",
    "mistral3": "ministral3",
    "olmo2": "olmo2",
    "phi2": "phi",
    "phi3": "phi3",
    "smollm3": "smollm3",
    "stablelm": "stablelm",
}
"""MLC's `model_type` of each ``general.architecture``."""
_INTERLEAVED: Final = frozenset({"llama", "granite", "mistral3", "smollm3"})
"""Architectures in which llama.cpp's converter interleaves the rows of heads in pairs."""
_BIASED: Final = frozenset({"llama", "granite", "olmo2", "qwen3", "smollm3"})
"""Architectures in which all projections of attention may have biases, or none."""
_SAMPLING: Final = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
"""``general.sampling`` fields, and the request fields of which they are the defaults."""
_TURN_ENDS: Final = frozenset(
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>",
        "<EOT>", "_<EOT>", "<|end_of_text|>", "</s>", "<|return|>", "<|call|>",
    }
)  # fmt: skip
"""Control tokens that end an answer, in any vocabulary that has them."""
_CONTROL: Final = 3
_REMEDY: Final = "Download the file again, or take another conversion of the model."


def interleaved_heads(model: GGUFModel) -> int:
    """The number of rows of a head, if the file has them in pairs; otherwise 0."""
    fields = _Fields(model)
    return fields.head_dim() if fields.architecture in _INTERLEAVED else 0


def chat_config(model: GGUFModel) -> dict[str, Any]:
    """Make the mlc-chat-config.json of this model.

    Raises:
        UnsupportedModelError: The architecture is not supported.
        ModelFormatError: A field is missing or wrong.
    """
    fields = _Fields(model)
    vocabulary = _vocabulary_size(model)
    context = fields.positive_int("context_length")
    config: dict[str, Any] = {
        "model_type": fields.model_type(),
        "quantization": QUANTIZATION,
        "vocab_size": vocabulary,
        "context_window_size": context,
        "model_config": _model_config(fields, model, vocabulary, context),
        "eos_token_id": end_ids(model.fields),
    }
    for key, name in _SAMPLING.items():
        value = model.fields.get(f"general.sampling.{key}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            config[name] = value
    return config


def end_ids(fields: Mapping[str, Any]) -> list[int]:
    """The tokens that end an answer: those that the file names, and known ones by their text."""
    tokens, types = fields.get("tokenizer.ggml.tokens"), fields.get("tokenizer.ggml.token_type")
    found = [i for key in ("eos", "eot", "eom") if (i := special_id(fields, key)) is not None]
    if isinstance(tokens, list) and isinstance(types, np.ndarray):
        control = np.flatnonzero(types[: len(tokens)] == _CONTROL).tolist()
        found += [i for i in control if tokens[i] in _TURN_ENDS]
    return sorted(set(found))


def special_id(fields: Mapping[str, Any], name: str) -> int | None:
    """The id of a special token of the file, such as ``eos``; None if it is not a token's id."""
    value = fields.get(f"tokenizer.ggml.{name}_token_id")
    tokens = fields.get("tokenizer.ggml.tokens")
    if not isinstance(value, int) or isinstance(value, bool) or not isinstance(tokens, list):
        return None
    return value if 0 <= value < len(tokens) else None


def _vocabulary_size(model: GGUFModel) -> int:
    if "token_embd.weight" not in model.tensors:
        raise ModelFormatError(
            f"{model.files[0].path} has no tensor token_embd.weight: it is not a language model, "
            "or it is incomplete.",
            param="model_id",
        )
    return model.tensors["token_embd.weight"][1].shape[0]


def _model_config(
    fields: _Fields, model: GGUFModel, vocabulary: int, context: int
) -> dict[str, Any]:
    heads = fields.positive_int("attention.head_count")
    return {
        "hidden_size": fields.positive_int("embedding_length"),
        "intermediate_size": fields.positive_int("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.positive_int("attention.head_count_kv", heads),
        "num_hidden_layers": fields.positive_int("block_count"),
        "head_dim": fields.head_dim(),
        "vocab_size": vocabulary,
        **_eps(fields),
        "partial_rotary_factor": fields.rotary_share(),
        "rope_theta": fields.positive_float("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(fields, model),
        "tie_word_embeddings": "output.weight" not in model.tensors,
        "attention_bias": _attention_bias(fields),
        "context_window_size": context,
        **(_OWN[fields.architecture](fields) if fields.architecture in _OWN else {}),
    }


def _attention_bias(fields: _Fields) -> bool:
    """Whether all projections of attention have biases, in relatives of Llama."""
    after, before = (
        "blk.0.attn_output.bias" in fields.tensors,
        "blk.0.attn_q.bias" in fields.tensors,
    )
    if before != after and fields.architecture in _BIASED:
        raise fields.unsupported(
            "only some of attention's projections have biases, which is not supported"
        )
    return after


def _eps(fields: _Fields) -> dict[str, float]:
    if fields.get("attention.layer_norm_rms_epsilon", None) is None:
        return {"layer_norm_eps": fields.positive_float("attention.layer_norm_epsilon")}
    return {"rms_norm_eps": fields.positive_float("attention.layer_norm_rms_epsilon")}


def _gpt2(fields: _Fields) -> dict[str, Any]:
    return {
        "hidden_act": "gelu_new",
        "max_position_embeddings": fields.positive_int("context_length"),
    }


def _gpt_neox(fields: _Fields) -> dict[str, Any]:
    return {
        "hidden_act": "gelu",
        "rotary_pct": fields.rotary_share(),
        "use_parallel_residual": fields.boolean("use_parallel_residual", default=True),
    }


def _granite(fields: _Fields) -> dict[str, Any]:
    if not fields.boolean("rope.scaling.finetuned", default=True):  # llama.cpp's switch of rotation
        raise fields.unsupported("positions are not rotated, which is not supported")
    return {
        "embedding_multiplier": fields.positive_float("embedding_scale", 1.0),
        "residual_multiplier": fields.positive_float("residual_scale", 1.0),
        "attention_multiplier": fields.positive_float("attention.scale", fields.head_dim() ** -0.5),
        "logits_scaling": fields.positive_float("logit_scale", 1.0),
    }


def _ministral3(fields: _Fields) -> dict[str, Any]:
    beta = fields.get("attention.temperature_scale", None)
    if beta is None:
        return {}
    original = fields.positive_int("rope.scaling.original_context_length")
    return {
        "rope_parameters": {
            "llama_4_scaling_beta": beta,
            "original_max_position_embeddings": original,
        }
    }


def _phi(fields: _Fields) -> dict[str, Any]:
    return {"hidden_act": "gelu_new"}


def _phi3(fields: _Fields) -> dict[str, Any]:
    # A model without a window has 0. llama.cpp ignores windows here; transformers does not.
    if not fields.get("attention.sliding_window", 0):
        return {}
    return {"sliding_window": fields.positive_int("attention.sliding_window")}


def _stablelm(fields: _Fields) -> dict[str, Any]:
    # As in llama.cpp, tensors decide: its converter's use_parallel_residual may be wrong.
    return {
        "use_qkv_bias": "blk.0.attn_q.bias" in fields.tensors,
        "qk_layernorm": "blk.0.attn_q_norm.weight" in fields.tensors,
        "use_parallel_residual": "blk.0.ffn_norm.weight" not in fields.tensors,
    }


def _gemma2(fields: _Fields) -> dict[str, Any]:
    return {
        **_gemma_scale(fields, 46),
        "sliding_window": fields.positive_int("attention.sliding_window", 4096),
        "attn_logit_softcapping": fields.positive_float("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": fields.positive_float("final_logit_softcapping", 30.0),
    }


def _gemma3(fields: _Fields) -> dict[str, Any]:
    return {
        **_gemma_scale(fields, 62),
        "sliding_window": fields.positive_int("attention.sliding_window"),
        "rope_local_base_freq": fields.positive_float("rope.freq_base_swa", 10000.0),
    }


def _gemma_scale(fields: _Fields, most_layers: int) -> dict[str, Any]:
    """What scores are divided by the root of: in the largest models, not the size of a head."""
    size = fields.head_dim()
    if fields.positive_int("block_count") == most_layers:
        size = fields.positive_int("embedding_length") // fields.positive_int(
            "attention.head_count"
        )
    return {"query_pre_attn_scalar": size}


_OWN: Final[Mapping[Any, Callable[[_Fields], dict[str, Any]]]] = {
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gpt2": _gpt2,
    "gptneox": _gpt_neox,
    "granite": _granite,
    "mistral3": _ministral3,
    "phi2": _phi,
    "phi3": _phi3,
    "stablelm": _stablelm,
}
"""The fields of ``model_config`` that only some architectures have."""


def _rope_scaling(fields: _Fields, model: GGUFModel) -> dict[str, Any] | None:
    """The scaling of the rotary embedding: divisors of its frequencies, or one factor."""
    if "rope_freqs.weight" in model.tensors:
        factors = _vector(model, "rope_freqs.weight")
        return {"rope_type": "factors", "factors": factors}
    if "rope_factors_long.weight" in model.tensors:
        return _longrope(fields, model)
    kind = fields.get("rope.scaling.type", "linear")  # also where only the factor is given
    if kind == "yarn":
        return _yarn(fields)
    if kind == "none":
        return None
    if kind == "linear":
        named = "rope.scaling.factor" if fields.has("rope.scaling.factor") else "rope.scale_linear"
        if fields.get(named, 0) == 0:  # none
            return None
        return {"rope_type": "linear", "factor": fields.positive_float(named)}
    return {"rope_type": str(kind)}  # refused later, with an error that names the supported ones


def _yarn(fields: _Fields) -> dict[str, Any]:
    factor = fields.positive_float("rope.scaling.factor", least=1.0)
    found: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": fields.positive_int(
            "rope.scaling.original_context_length", fields.positive_int("context_length")
        ),
    }
    for ours, theirs in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
        if fields.get(f"rope.scaling.{theirs}", None) is not None:
            found[ours] = fields.positive_float(f"rope.scaling.{theirs}")
    # What cosines and sines are multiplied by, unless the file has its logarithmic part, is 1.
    share = fields.get("rope.scaling.yarn_log_multiplier", None)
    if share is not None and fields.architecture == "mistral3":
        found["attention_factor"] = 1.0
    return found


def _longrope(fields: _Fields, model: GGUFModel) -> dict[str, Any]:
    """LongRoPE's factors, which are tensors."""
    found: dict[str, Any] = {
        "rope_type": "longrope",
        "original_max_position_embeddings": fields.positive_int(
            "rope.scaling.original_context_length"
        ),
        "max_position_embeddings": fields.positive_int("context_length"),
    }
    if fields.get("rope.scaling.attn_factor", None) is not None:
        found["attention_factor"] = fields.positive_float("rope.scaling.attn_factor")
    for name in ("long", "short"):
        found[f"{name}_factor"] = _vector(model, f"rope_factors_{name}.weight")
    return found


def _vector(model: GGUFModel, name: str) -> list[float]:
    if name not in model.tensors:
        raise ModelFormatError(
            f"{model.files[0].path} has no tensor {name}. {_REMEDY}", param="model_id"
        )
    file, tensor = model.tensors[name]
    if tensor.kind.name != "F32" or len(tensor.shape) != 1:
        raise ModelFormatError(f"{file.path}: {name} must be one row of F32.", param="model_id")
    values: list[float] = file.read_rows(tensor, 0, 1).view("<f4")[0].tolist()
    return values


class _Fields(Fields):
    """The fields of a file's architecture; one value for each layer counts as one if all agree."""

    def __init__(self, model: GGUFModel) -> None:
        self._where = str(model.files[0].path)
        self.architecture = model.fields.get("general.architecture")
        prefix = f"{self.architecture}."
        own = {k.removeprefix(prefix): v for k, v in model.fields.items() if k.startswith(prefix)}
        self.tensors = model.tensors
        self._missing_mechanism = missing_mechanism(own)
        super().__init__(own, str(self.architecture), self._where, _REMEDY)

    def model_type(self) -> str:
        known = isinstance(self.architecture, str) and self.architecture in _ARCHITECTURES
        why = self._missing_mechanism or (None if known else mechanism_of_kind(self.architecture))
        if why is not None or not known:
            because = f": {why}, which is not supported" if why else ""
            raise self.unsupported(
                f"general.architecture is {shortened(self.architecture)}{because}; the supported "
                f"ones are {', '.join(_ARCHITECTURES)}"
            )
        return _ARCHITECTURES[str(self.architecture)]

    def get(self, key: str, default: Any = MISSING) -> Any:
        value = super().get(key, default)
        if not isinstance(value, np.ndarray):
            return value
        if len(set(value.tolist())) != 1:
            raise self.unsupported(
                f"{self.architecture}.{key} differs from layer to layer, which is not supported"
            )
        return value.tolist()[0]

    def unsupported(self, what: str) -> UnsupportedModelError:
        """The error that says what of the file is not supported."""
        return UnsupportedModelError(f"{self._where}: {what}.", param="model_id")

    def head_dim(self) -> int:
        size = self.positive_int("embedding_length") // self.positive_int("attention.head_count")
        head = self.positive_int("attention.key_length", size)
        if self.positive_int("attention.value_length", head) != head:
            raise self.unsupported(
                "keys and values have heads of different sizes, which is not supported"
            )
        return head

    def rotary_share(self) -> float:
        """The share of a head's dimensions that are rotated."""
        head = self.head_dim()
        dims = self.positive_int("rope.dimension_count", head, most=head)
        if dims != head and self.architecture in _INTERLEAVED:
            raise self.unsupported("only a part of each head is rotated, which is not supported")
        return dims / head
