"""Maps the tensors of transformers' models to MLC's parameters, with their shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.engine.store.families import FAMILIES, renamed
from mlc_widget.engine.store.formats.hf_folder import SafetensorsModel
from mlc_widget.engine.store.formats.safetensors_file import FLOATS

Array = npt.NDArray[Any]

_QKV: Final = ("q_proj", "k_proj", "v_proj")
_GATE_UP: Final = ("gate_proj", "up_proj")
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
        plus: What is added to the values in the files.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[tuple[str, int], ...]
    plus: float = 0.0


def parameters(model_type: str, config: Mapping[str, Any]) -> Iterator[Parameter]:
    """All parameters of a model, in the order in which MLC writes them.

    Args:
        model_type: One of `families.FAMILIES`.
        config: MLC's ``model_config``, checked.
    """
    family = FAMILIES[model_type]
    hidden, inner, d = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * d, config["num_key_value_heads"] * d
    biased = bool(config.get("attention_bias", False))

    def plain(name: str, *shape: int, plus: float = 0.0) -> Parameter:
        theirs = renamed(name, family.transformers)
        return Parameter(renamed(name, family.mlc), shape, ((theirs, shape[0]),), plus)

    def stacked(name: str, of: Sequence[str], rows: Sequence[int]) -> Iterator[Parameter]:
        above, _, kind = name.rpartition(".")
        above = above.rpartition(".")[0]
        inputs = (hidden,) if kind == "weight" else ()
        parts = [f"{above}.{part}.{kind}" for part in of]
        if family.apart and of == _QKV:
            yield from (plain(p, n, *inputs) for p, n in zip(parts, rows, strict=True))
            return
        theirs = (renamed(part, family.transformers) for part in parts)
        yield Parameter(
            renamed(name, family.mlc),
            (sum(rows), *inputs),
            tuple(zip(theirs, rows, strict=True)),
        )

    def norm(name: str, features: int) -> Parameter:
        return plain(f"{name}.weight", features, plus=family.norms_plus)

    yield plain("model.embed_tokens.weight", config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        attention, mlp = f"{layer}self_attn.", f"{layer}mlp."
        yield from stacked(f"{attention}{family.qkv}.weight", _QKV, (q, kv, kv))
        if biased if family.qkv_bias is None else family.qkv_bias:
            yield from stacked(f"{attention}{family.qkv}.bias", _QKV, (q, kv, kv))
        yield plain(f"{attention}o_proj.weight", hidden, q)
        if biased if family.o_bias is None else family.o_bias:
            yield plain(f"{attention}o_proj.bias", hidden)
        if family.head_norms:
            each = family.head_norms == "each"
            yield norm(f"{attention}q_norm", d if each else q)
            yield norm(f"{attention}k_norm", d if each else kv)
        yield from stacked(f"{mlp}gate_up_proj.weight", _GATE_UP, (inner, inner))
        yield plain(f"{mlp}down_proj.weight", hidden, inner)
        for name in family.norms:
            yield norm(f"{layer}{name}", hidden)
    yield norm("model.norm", hidden)
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
            read = file.read_rows(tensor, start, stop)
            yield name, size, read + np.float32(parameter.plus) if parameter.plus else read
