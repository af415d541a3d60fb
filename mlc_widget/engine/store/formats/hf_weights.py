"""Maps the tensors of transformers' models to MLC's parameters, with their shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.engine.store.families import Family, family_of, renamed
from mlc_widget.engine.store.formats.hf_folder import SafetensorsModel
from mlc_widget.engine.store.formats.safetensors_file import FLOATS

Array = npt.NDArray[Any]
Arranged: TypeAlias = Literal["", "inputs first", "head by head"]

_QKV: Final = ("q_proj", "k_proj", "v_proj")
_GATE_UP: Final = ("gate_proj", "up_proj")
_UNUSED: Final = re.compile(r".*\.(?:rotary_emb\.inv_freq|masked_bias|attention\.bias|attn\.bias)$")
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
        arranged: How the files have it, if not as MLC: with the inputs first, or with queries, keys
            and values head by head.
        heads: The number of query heads.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[tuple[str, int], ...]
    plus: float = 0.0
    arranged: Arranged = ""
    heads: int = 1

    def in_order(self, value: Array) -> Array:
        """A whole tensor of the files as MLC has it."""
        if self.arranged == "inputs first":
            return value.T
        if self.arranged == "head by head":
            apart = value.reshape(self.heads, 3, -1, *value.shape[1:])
            return apart.swapaxes(0, 1).reshape(value.shape)
        return value


def parameters(model_type: str, config: Mapping[str, Any]) -> Iterator[Parameter]:
    """All parameters of a model, in the order in which MLC writes them.

    Args:
        model_type: One of `families.FAMILIES`.
        config: MLC's ``model_config``, checked.
    """
    made = _Parameters(family_of(model_type, config), config)
    yield from made.all()


class _Parameters:
    """The parameters of one model."""

    def __init__(self, family: Family, config: Mapping[str, Any]) -> None:
        self._family, self._config = family, config
        self._hidden, self._inner = config["hidden_size"], config["intermediate_size"]
        self._head = config["head_dim"]
        self._q = config["num_attention_heads"] * self._head
        self._kv = config["num_key_value_heads"] * self._head

    def all(self) -> Iterator[Parameter]:
        family, config = self._family, self._config
        vocabulary = (config["vocab_size"], self._hidden)
        yield self._plain("model.embed_tokens.weight", *vocabulary)
        if family.positions:
            size = (config["max_position_embeddings"], self._hidden)
            yield self._plain("model.embed_positions.weight", *size)
        for i in range(config["num_hidden_layers"]):
            yield from self._layer(f"model.layers.{i}.")
        yield from self._norm("model.norm", self._hidden)
        if family.positions:
            theirs = renamed("model.embed_tokens.weight", family.transformers)
            name = renamed("lm_head.weight", family.mlc)
            yield Parameter(name, vocabulary, ((theirs, vocabulary[0]),))
        elif not config["tie_word_embeddings"]:
            yield self._plain("lm_head.weight", *vocabulary)
            if family.output_bias:
                yield self._plain("lm_head.bias", vocabulary[0])

    def _layer(self, layer: str) -> Iterator[Parameter]:
        family, hidden, inner = self._family, self._hidden, self._inner
        attention, mlp = f"{layer}self_attn.", f"{layer}mlp."
        q, kv = self._q, self._kv
        biased = bool(self._config.get("attention_bias") or self._config.get("use_qkv_bias"))
        yield from self._stacked(f"{attention}{family.qkv}.weight", _QKV, (q, kv, kv))
        if biased if family.qkv_bias is None else family.qkv_bias:
            yield from self._stacked(f"{attention}{family.qkv}.bias", _QKV, (q, kv, kv))
        yield self._matrix(f"{attention}o_proj.weight", hidden, q)
        if biased if family.o_bias is None else family.o_bias:
            yield self._plain(f"{attention}o_proj.bias", hidden)
        for name, rows in (("q_norm", q), ("k_norm", kv)) if family.head_norms else ():
            if family.head_norms == "own":
                yield self._norms_of_heads(f"{attention}{name}", rows)
            else:
                yield from self._norm(
                    f"{attention}{name}", rows if family.head_norms == "together" else self._head
                )
        if family.gated:
            yield from self._stacked(f"{mlp}gate_up_proj.weight", _GATE_UP, (inner, inner))
        else:
            yield self._matrix(f"{mlp}up_proj.weight", inner, hidden)
            yield self._plain(f"{mlp}up_proj.bias", inner)
        yield self._matrix(f"{mlp}down_proj.weight", hidden, inner)
        if not family.gated:
            yield self._plain(f"{mlp}down_proj.bias", hidden)
        for name in family.norms:
            yield from self._norm(f"{layer}{name}", hidden)

    def _plain(
        self, name: str, *shape: int, plus: float = 0.0, arranged: Arranged = ""
    ) -> Parameter:
        theirs = renamed(name, self._family.transformers)
        mlc = renamed(name, self._family.mlc)
        heads = self._config["num_attention_heads"]
        return Parameter(mlc, shape, ((theirs, shape[0]),), plus, arranged, heads)

    def _matrix(self, name: str, *shape: int) -> Parameter:
        return self._plain(
            name, *shape, arranged="inputs first" if self._family.inputs_first else ""
        )

    def _norm(self, name: str, features: int) -> Iterator[Parameter]:
        yield self._plain(f"{name}.weight", features, plus=self._family.norms_plus)
        if self._family.norm_bias:
            yield self._plain(f"{name}.bias", features)

    def _norms_of_heads(self, name: str, rows: int) -> Parameter:
        """The weights of norms that each head has, one after the other; `rows` is their number."""
        parts = [
            (renamed(f"{name}.{head}.weight", self._family.transformers), self._head)
            for head in range(rows // self._head)
        ]
        return Parameter(renamed(f"{name}.weight", self._family.mlc), (rows,), tuple(parts))

    def _stacked(self, name: str, of: Sequence[str], rows: Sequence[int]) -> Iterator[Parameter]:
        family = self._family
        above, _, kind = name.rpartition(".")
        above = above.rpartition(".")[0]
        inputs = (self._hidden,) if kind == "weight" else ()
        parts = [f"{above}.{part}.{kind}" for part in of]
        if family.fused or (family.fused_mlp and of == _GATE_UP):
            arranged: Arranged = "head by head" if family.heads_together else ""
            if family.inputs_first and kind == "weight":
                arranged = "inputs first"
            yield self._plain(name, sum(rows), *inputs, arranged=arranged)
        elif family.apart and of == _QKV:
            yield from (self._plain(p, n, *inputs) for p, n in zip(parts, rows, strict=True))
        else:
            theirs = (renamed(part, family.transformers) for part in parts)
            yield Parameter(
                renamed(name, family.mlc),
                (sum(rows), *inputs),
                tuple(zip(theirs, rows, strict=True)),
            )


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
            shape = (rows, *parameter.shape[1:])
            _check_one(model, name, shape[::-1] if parameter.arranged == "inputs first" else shape)
    left.pop("lm_head.weight", None)  # saved beside the embedding that it is tied to
    more = [name for name in left if not _UNUSED.match(name)]
    if more:
        listed = ", ".join(name[:100] for name in more[:_LISTED])
        raise UnsupportedModelError(
            f"{model.folder.path} has {len(more)} tensors that its architecture does not have "
            f"({listed}{', …' if len(more) > _LISTED else ''}): it is a variant that is not "
            "supported, or config.json belongs to another model.",
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
        whole = None
        if parameter.arranged:  # its rows are not rows of the file
            whole = parameter.in_order(file.read_rows(tensor, 0, tensor.shape[0]))
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            size = tensor.nbytes * (stop - start) // rows
            read = file.read_rows(tensor, start, stop) if whole is None else whole[start:stop]
            yield name, size, read + np.float32(parameter.plus) if parameter.plus else read
