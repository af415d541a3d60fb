"""Translates a GGUF file's metadata to the fields of mlc-chat-config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.api.request_values import shortened
from mlc_widget.engine.store.fields import MISSING, Fields
from mlc_widget.engine.store.formats.gguf_file import GGUFModel

QUANTIZATION: Final = "ggml"
"""The `quantization` of models in which each tensor has its own type."""

_ARCHITECTURES: Final = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
}
"""MLC's `model_type` of each ``general.architecture``."""
_INTERLEAVED: Final = frozenset({"llama"})
"""Architectures in which llama.cpp's converter interleaves the rows of heads in pairs."""
_SAMPLING: Final = {
    "temp": "temperature",
    "top_p": "top_p",
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
            "or not complete.",
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
        "rms_norm_eps": fields.positive_float("attention.layer_norm_rms_epsilon"),
        "rope_theta": fields.positive_float("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(fields, model),
        "tie_word_embeddings": "output.weight" not in model.tensors,
        "attention_bias": "blk.0.attn_output.bias" in model.tensors,
        "context_window_size": context,
        **(_OWN[fields.architecture](fields) if fields.architecture in _OWN else {}),
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
}
"""The fields of ``model_config`` that only some architectures have."""


def _rope_scaling(fields: _Fields, model: GGUFModel) -> dict[str, Any] | None:
    """The scaling of the rotary embedding: divisors of its frequencies, or one factor."""
    if "rope_freqs.weight" in model.tensors:
        file, tensor = model.tensors["rope_freqs.weight"]
        if tensor.kind.name != "F32" or len(tensor.shape) != 1:
            raise ModelFormatError(
                f"{file.path}: rope_freqs.weight must be one row of F32.", param="model_id"
            )
        factors = file.read_rows(tensor, 0, 1).view("<f4")[0].tolist()
        return {"rope_type": "factors", "factors": factors}
    kind = fields.get("rope.scaling.type", "none")
    if kind in ("none", None):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": fields.positive_float("rope.scaling.factor")}
    return {"rope_type": str(kind)}  # refused later, with an error that names the supported ones


class _Fields(Fields):
    """The fields of a file's architecture; one value for each layer counts as one if all agree."""

    def __init__(self, model: GGUFModel) -> None:
        self._where = str(model.files[0].path)
        self.architecture = model.fields.get("general.architecture")
        prefix = f"{self.architecture}."
        own = {k.removeprefix(prefix): v for k, v in model.fields.items() if k.startswith(prefix)}
        super().__init__(own, str(self.architecture), self._where, _REMEDY)

    def model_type(self) -> str:
        if not isinstance(self.architecture, str) or self.architecture not in _ARCHITECTURES:
            raise self._unsupported(
                f"general.architecture is {shortened(self.architecture)}; those that run are "
                f"{', '.join(_ARCHITECTURES)}"
            )
        return _ARCHITECTURES[self.architecture]

    def get(self, key: str, default: Any = MISSING) -> Any:
        value = super().get(key, default)
        if not isinstance(value, np.ndarray):
            return value
        if len(set(value.tolist())) != 1:
            raise self._unsupported(
                f"{self.architecture}.{key} differs from layer to layer, which does not run"
            )
        return value.tolist()[0]

    def _unsupported(self, what: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self._where}: {what}.", param="model_id")

    def head_dim(self) -> int:
        size = self.positive_int("embedding_length") // self.positive_int("attention.head_count")
        head = self.positive_int("attention.key_length", size)
        if self.positive_int("attention.value_length", head) != head:
            raise self._unsupported(
                "keys and values have heads of different sizes, which does not run"
            )
        if self.positive_int("rope.dimension_count", head) != head:
            raise self._unsupported("only a part of each head is rotated, which does not run")
        return head
