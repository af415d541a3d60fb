"""Maps the tensors of transformers' models to MLC's parameters, with their shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.engine.store.formats.hf_folder import SafetensorsModel
from mlc_widget.engine.store.formats.safetensors_file import FLOATS

Array = npt.NDArray[Any]

_QKV: Final = ("q_proj", "k_proj", "v_proj")
_UNUSED: Final = re.compile(r".*\.(?:rotary_emb\.inv_freq|masked_bias)$")
"""Tensors that old versions saved; they are not needed, as they can be computed."""
_PACKED: Final = re.compile(r".*\.(qweight|qzeros|weight_packed|absmax|weight_scale(?:_inv)?)$")
_LISTED: Final = 3
PIECE: Final = 1 << 19
"""The number of weights that are read at a time."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter.

    Attributes:
        name: MLC's name.
        shape: Its shape.
        parts: Name and number of rows of each tensor in the files that it is stacked from.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[tuple[str, int], ...]


def parameters(model_type: str, config: Mapping[str, Any]) -> Iterator[Parameter]:
    """All parameters of a model, in the order in which MLC writes them.

    Args:
        model_type: One of `hf_config.MODEL_TYPES`.
        config: MLC's ``model_config``, checked.
    """
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    d = config["head_dim"]
    q, kv = config["num_attention_heads"] * d, config["num_key_value_heads"] * d
    qwen = model_type in ("qwen2", "qwen3")
    bias = model_type == "qwen2" or config.get("attention_bias", False)

    def plain(name: str, *shape: int) -> Parameter:
        return Parameter(name, shape, ((name, shape[0]),))

    def stacked(prefix: str, name: str, of: Sequence[str], rows: Sequence[int]) -> Parameter:
        layer, _, kind = name.rpartition(".")
        shape = (sum(rows), hidden) if kind == "weight" else (sum(rows),)
        parts = [f"{prefix}{part}.{kind}" for part in of]
        return Parameter(f"{prefix}{layer}.{kind}", shape, tuple(zip(parts, rows, strict=True)))

    yield plain("model.embed_tokens.weight", config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        attention, mlp = f"{layer}self_attn.", f"{layer}mlp."
        name = "c_attn" if qwen else "qkv_proj"
        yield stacked(attention, f"{name}.weight", _QKV, (q, kv, kv))
        if bias:
            yield stacked(attention, f"{name}.bias", _QKV, (q, kv, kv))
        yield plain(f"{attention}o_proj.weight", hidden, q)
        if bias and model_type != "qwen2":
            yield plain(f"{attention}o_proj.bias", hidden)
        if model_type == "qwen3":
            yield plain(f"{attention}q_norm.weight", d)
            yield plain(f"{attention}k_norm.weight", d)
        yield stacked(mlp, "gate_up_proj.weight", ("gate_proj", "up_proj"), (inner, inner))
        yield plain(f"{mlp}down_proj.weight", hidden, inner)
        yield plain(f"{layer}input_layernorm.weight", hidden)
        yield plain(f"{layer}post_attention_layernorm.weight", hidden)
    yield plain("model.norm.weight", hidden)
    if not config["tie_word_embeddings"]:
        yield plain("lm_head.weight", config["vocab_size"], hidden)


def check(model: SafetensorsModel, wanted: Sequence[Parameter]) -> None:
    """Compare the files' tensors with what the configuration needs.

    Raises:
        ModelFormatError: One is missing, or has another shape.
        UnsupportedModelError: One has an unsupported type, or is unknown to the architecture.
    """
    left = dict.fromkeys(model.tensors)
    for parameter in wanted:
        for name, rows in parameter.parts:
            left.pop(name, None)
            _check_one(model, name, (rows, *parameter.shape[1:]))
    left.pop("lm_head.weight", None)  # saved beside the embedding that it is tied to
    more = [name for name in left if not _UNUSED.match(name)]
    if more:
        listed = ", ".join(name[:100] for name in more[:_LISTED])
        raise UnsupportedModelError(
            f"{model.folder.path} has {len(more)} tensors that its architecture does not have "
            f"({listed}{', …' if len(more) > _LISTED else ''}): it is a variant that does not run, "
            "or config.json belongs to another model.",
            param="model_id",
        )


def _check_one(model: SafetensorsModel, name: str, shape: tuple[int, ...]) -> None:
    where = model.folder.path
    if name not in model.tensors:
        packed = next((m for n in model.tensors if (m := _PACKED.match(n))), None)
        if packed is not None:
            raise UnsupportedModelError(
                f"{where} has no tensor {name} but {packed[0][:100]}: its weights are packed, as "
                "by GPTQ or AWQ, which is not read. Take the model that it was made from, or a "
                "GGUF file of it.",
                param="model_id",
            )
        raise ModelFormatError(
            f"{where} has no tensor {name}, which config.json needs. Download the whole "
            "repository; or config.json belongs to another model.",
            param="model_id",
        )
    file, tensor = model.tensors[name]
    if tensor.dtype not in FLOATS:
        raise UnsupportedModelError(
            f"{file.path}: tensor {name} is {tensor.dtype}; {', '.join(FLOATS)} are read. Take "
            "the same model in one of these, or a GGUF file of it.",
            param=str(file.path),
        )
    if tensor.shape != shape:
        raise ModelFormatError(
            f"{file.path}: tensor {name} has the shape {list(tensor.shape)}, and config.json "
            f"needs {list(shape)}. The two belong to different models; download both again.",
            param=str(file.path),
        )


def source_bytes(model: SafetensorsModel, wanted: Sequence[Parameter]) -> int:
    """The number of bytes to read from the files for these parameters."""
    return sum(model.tensors[name][1].nbytes for p in wanted for name, _ in p.parts)


def read(
    model: SafetensorsModel, parameter: Parameter, weights: int
) -> Iterator[tuple[str, int, Array]]:
    """A parameter piece by piece.

    Args:
        model: The files, checked.
        parameter: One of the model's.
        weights: The approximate number of weights in a piece.

    Yields:
        The tensor's name, the size of the piece in the file in bytes, and the rows.

    Raises:
        ModelFormatError: A file has become shorter.
    """
    columns = int(np.prod(parameter.shape[1:], dtype=np.int64))
    step = max(1, weights // max(1, columns))
    for name, rows in parameter.parts:
        file, tensor = model.tensors[name]
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            size = tensor.nbytes * (stop - start) // rows
            yield name, size, file.read_rows(tensor, start, stop)
