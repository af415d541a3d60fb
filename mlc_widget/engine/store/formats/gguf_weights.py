"""The tensors of a GGUF model by the names of the architectures' parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.engine.store.formats.ggml_types import dequantize
from mlc_widget.engine.store.formats.gguf_file import GGUFFile, GGUFModel, GGUFTensor
from mlc_widget.engine.store.verification import FileIdentity

Array = npt.NDArray[Any]
_Rows: TypeAlias = tuple[GGUFFile, GGUFTensor, range]
"""A file, one of its tensors, and the rows of it that are meant."""

_QKV: Final = (("attn_q", "attn_k", "attn_v"), ("attn_qkv",))
_NAMES: Final[Mapping[str, Sequence[tuple[str, ...]]]] = {
    "model.embed_tokens": [("token_embd",)],
    "model.norm": [("output_norm",)],
    "lm_head": [("output",)],
    "self_attn.qkv_proj": _QKV,
    "self_attn.c_attn": _QKV,
    "self_attn.o_proj": [("attn_output",)],
    "self_attn.q_norm": [("attn_q_norm",)],
    "self_attn.k_norm": [("attn_k_norm",)],
    "mlp.gate_up_proj": [("ffn_gate", "ffn_up"), ("ffn_up",)],
    "mlp.up_proj": [("ffn_up",)],
    "mlp.down_proj": [("ffn_down",)],
    "model.embed_positions": [("position_embd",)],
    "input_layernorm": [("attn_norm",)],
    # Where a block's output is normalized, ffn_norm is the norm before the second block.
    "post_attention_layernorm": [("post_attention_norm",), ("ffn_norm",)],
    "pre_feedforward_layernorm": [("ffn_norm",)],
    "post_feedforward_layernorm": [("post_ffw_norm",)],
}
"""The names of a layer's tensors in files, by the layer's name within its block.

Files differ in them; the first tuple all of whose tensors are in the file counts.
"""
_HALVES: Final = "mlp.gate_up_proj"
"""A layer whose two halves may be one tensor."""
_LAYER: Final = re.compile(r"^model\.layers\.(\d+)\.(.+)$")
_PART: Final = re.compile(r"^(.+)\.part(\d+)$")
_BLOCK: Final = re.compile(r"^blk\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class GGUFRecord:
    """One parameter in the file.

    Attributes:
        name: The parameter's name.
        shape: (rows, bytes of a row) of a matrix, or (n,) of a vector of floats.
        dtype: ``uint8`` or ``float32``.
        nbytes: Its size in the file in bytes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


class GGUFWeights:
    """Named tensors of a model.

    Args:
        model: The open file.
        interleaved_heads: The number of rows of a query head and a key head, if the file has them
            in pairs, as llama.cpp rotates them in ``llama`` files; 0 if they are in the model's
            order.
    """

    def __init__(self, model: GGUFModel, interleaved_heads: int = 0) -> None:
        self._model = model
        self._head = interleaved_heads

    @property
    def where(self) -> str:
        """The file, for messages."""
        return str(self._model.files[0].path)

    def layers(self) -> int:
        """The number of layers in the file."""
        return len({m[1] for name in self._model.tensors if (m := _BLOCK.match(name))})

    def identities(self) -> dict[Path, FileIdentity]:
        """The model's files, as they were when they were opened."""
        return {file.path: file.identity for file in self._model.files}

    def tensor_types(self) -> dict[str, str]:
        """The ggml type of each tensor, by its name in the file."""
        return {name: t.kind.name for name, (_, t) in self._model.tensors.items()}

    def types_of(self, layer: str) -> list[tuple[str, int]]:
        """The type and rows of each tensor of a linear layer, given its name in the architecture.

        Raises:
            ModelFormatError: The file lacks a tensor.
        """
        return [(t.kind.name, len(rows)) for _, t, rows in self._tensors(layer, "weight")]

    def is_matrix(self, layer: str) -> bool:
        """Whether a layer's weights have rows and columns.

        Norms are vectors, though those of StableLM's heads have a row for each head.
        """
        return not layer.endswith("norm") and len(self._tensors(layer, "weight")[0][1].shape) > 1

    def verify(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: GGUF files have no checksums, and sizes were checked when it was opened."""

    def close(self) -> None:
        """Close the files. Idempotent."""
        self._model.close()

    def find(self, parameter: str) -> GGUFRecord:
        """Find a parameter by its name: ``.part<i>`` of a matrix, or a vector.

        Raises:
            ModelFormatError: The file lacks it.
        """
        found = self._of(parameter)
        if _PART.match(parameter):
            _, tensor, rows = found[0]
            shape = (len(rows), tensor.row_bytes)
            return GGUFRecord(parameter, shape, "uint8", len(rows) * tensor.row_bytes)
        nbytes = sum(tensor.nbytes for _, tensor, _ in found)
        length = sum(int(np.prod(tensor.shape)) for _, tensor, _ in found)
        return GGUFRecord(parameter, (length,), "float32", nbytes)

    def read_rows(self, record: GGUFRecord, pieces: Sequence[tuple[int, int]]) -> Iterator[Array]:
        """Read a parameter piece by piece, given the first row of each piece and its end.

        Yields:
            The rows, in memory that the next piece overwrites.

        Raises:
            ModelFormatError: The file has become shorter, or was written to.
        """
        found = self._of(record.name)
        if _PART.match(record.name):
            yield from self._matrix(*found[0], pieces)
        else:
            yield np.concatenate([self._vector(file, tensor) for file, tensor, _ in found])
        for file, _, _ in found:
            file.check_unchanged()

    def _matrix(
        self, file: GGUFFile, tensor: GGUFTensor, rows: range, pieces: Sequence[tuple[int, int]]
    ) -> Iterator[Array]:
        """Some of a tensor's rows piece by piece, in memory that the next piece overwrites."""
        if self._head and tensor.name.endswith((".attn_q.weight", ".attn_k.weight")):
            for start, stop in pieces:
                yield self._head_rows(file, tensor, start, stop)
            return
        most = max((stop - start for start, stop in pieces), default=0)
        memory = np.empty(most * tensor.row_bytes, np.uint8)
        for start, stop in pieces:
            yield file.read_rows(tensor, rows.start + start, rows.start + stop, memory)

    def _head_rows(self, file: GGUFFile, tensor: GGUFTensor, start: int, stop: int) -> Array:
        """Read rows in the model's order: a head's first rows of pairs, then its second rows."""
        head = self._head
        first, end = start // head * head, -(-stop // head) * head
        pairs = file.read_rows(tensor, first, end).reshape(-1, head // 2, 2, tensor.row_bytes)
        rows = pairs.swapaxes(1, 2).reshape(end - first, tensor.row_bytes)
        return rows[start - first : stop - first]

    def _vector(self, file: GGUFFile, tensor: GGUFTensor) -> Array:
        data = file.read_rows(tensor, 0, int(np.prod(tensor.shape[:-1])))
        values = dequantize(tensor.kind, data, tensor.shape[-1]).reshape(-1)
        if self._head and tensor.name.endswith((".attn_q.bias", ".attn_k.bias")):
            values = values.reshape(-1, self._head // 2, 2).swapaxes(1, 2).reshape(-1)
        return values

    def _of(self, parameter: str) -> list[_Rows]:
        if part := _PART.match(parameter):
            return [self._tensors(part[1], "weight")[int(part[2])]]
        layer, _, kind = parameter.rpartition(".")
        return self._tensors(layer, kind)

    def _tensors(self, layer: str, kind: str) -> list[_Rows]:
        """The file's tensors for the ``weight`` or ``bias`` of a layer, and their rows."""
        prefix, name = "", layer
        if inside := _LAYER.match(layer):
            prefix, name = f"blk.{inside[1]}.", inside[2]
        choices = [[f"{prefix}{stem}.{kind}" for stem in stems] for stems in _NAMES.get(name, ())]
        if not choices:
            raise ModelFormatError(
                f"{self.where}: the name of the layer {layer} in GGUF files is not known.",
                param="model_id",
            )
        for names in choices:
            if all(full in self._model.tensors for full in names):
                found = [self._model.tensors[full] for full in names]
                if name == _HALVES and len(found) == 1:
                    [(file, tensor)] = found
                    half = tensor.shape[0] // 2
                    return [(file, tensor, range(half)), (file, tensor, range(half, 2 * half))]
                return [(file, tensor, range(tensor.shape[0])) for file, tensor in found]
        missing = next(full for full in choices[0] if full not in self._model.tensors)
        raise ModelFormatError(
            f"{self.where} has no tensor {missing}, which the model needs for {layer}: the "
            "file is incomplete, or its architecture is not the one in its metadata.",
            param="model_id",
        )
