"""Translates a GGUF file's metadata to the fields of mlc-chat-config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.engine.store.formats.gguf_file import GGUFModel

QUANTIZATION: Final = "ggml"
"""The `quantization` of models in which each tensor has its own type."""

_ARCHITECTURES: Final = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
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
    context = fields.whole("context_length")
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
    heads = fields.whole("attention.head_count")
    return {
        "hidden_size": fields.whole("embedding_length"),
        "intermediate_size": fields.whole("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.whole("attention.head_count_kv", heads),
        "num_hidden_layers": fields.whole("block_count"),
        "head_dim": fields.head_dim(),
        "vocab_size": vocabulary,
        "rms_norm_eps": fields.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": fields.number("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(fields, model),
        "tie_word_embeddings": "output.weight" not in model.tensors,
        "attention_bias": "blk.0.attn_output.bias" in model.tensors,
        "context_window_size": context,
    }


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
        return {"rope_type": "linear", "factor": fields.number("rope.scaling.factor")}
    return {"rope_type": str(kind)}  # refused later, with an error that names the supported ones


class _Fields:
    """Typed access to an architecture's fields, with errors that name them."""

    def __init__(self, model: GGUFModel) -> None:
        self._fields, self._where = model.fields, model.files[0].path
        self.architecture = model.fields.get("general.architecture")

    def model_type(self) -> str:
        if self.architecture not in _ARCHITECTURES:
            raise UnsupportedModelError(
                f"{self._where}: general.architecture is {self.architecture!r}; those that run are "
                f"{', '.join(_ARCHITECTURES)}.",
                param="model_id",
            )
        return _ARCHITECTURES[self.architecture]

    def get(self, name: str, default: Any = None) -> Any:
        return self._fields.get(f"{self.architecture}.{name}", default)

    def _wrong(self, name: str, what: str) -> ModelFormatError:
        return ModelFormatError(
            f"{self._where}: {self.architecture}.{name} {what}.", param="model_id"
        )

    def whole(self, name: str, default: int | None = None) -> int:
        value = self.get(name, default)
        if value is None:
            raise self._wrong(name, "is missing")
        if isinstance(value, np.ndarray):
            if len(set(value.tolist())) != 1:
                raise UnsupportedModelError(
                    f"{self._where}: {self.architecture}.{name} differs from layer to layer, "
                    "which does not run.",
                    param="model_id",
                )
            value = value.tolist()[0]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
            raise self._wrong(name, f"is {value!r}, and must be a positive integer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.get(name, default)
        if value is None:
            raise self._wrong(name, "is missing")
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self._wrong(name, f"is {value!r}, and must be a positive number")
        return float(value)

    def head_dim(self) -> int:
        size = self.whole("embedding_length") // self.whole("attention.head_count")
        head = self.whole("attention.key_length", size)
        if self.whole("attention.value_length", head) != head:
            raise UnsupportedModelError(
                f"{self._where}: heads of keys and of values differ in size, which does not run.",
                param="model_id",
            )
        if self.whole("rope.dimension_count", head) != head:
            raise UnsupportedModelError(
                f"{self._where}: only a part of each head is rotated, which does not run.",
                param="model_id",
            )
        return head
