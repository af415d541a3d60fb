"""The tensors of a GGUF model by the names of the architectures' parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.engine.store.formats.ggml_types import dequantize
from mlc_widget.engine.store.formats.gguf_file import GGUFFile, GGUFModel, GGUFTensor

Array = npt.NDArray[Any]

_ATTENTION: Final = ("attn_q", "attn_k", "attn_v")
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "model.embed_tokens": ("token_embd",),
    "model.norm": ("output_norm",),
    "lm_head": ("output",),
    "self_attn.qkv_proj": _ATTENTION,
    "self_attn.c_attn": _ATTENTION,
    "self_attn.o_proj": ("attn_output",),
    "self_attn.q_norm": ("attn_q_norm",),
    "self_attn.k_norm": ("attn_k_norm",),
    "mlp.gate_up_proj": ("ffn_gate", "ffn_up"),
    "mlp.down_proj": ("ffn_down",),
    "input_layernorm": ("attn_norm",),
    "post_attention_layernorm": ("ffn_norm",),
}
"""The names of a layer's tensors in the file, by the layer's name within its block."""
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

    def tensor_types(self) -> dict[str, str]:
        """The ggml type of each tensor, by its name in the file."""
        return {name: t.kind.name for name, (_, t) in self._model.tensors.items()}

    def types_of(self, layer: str) -> list[tuple[str, int]]:
        """The type and rows of each tensor of a linear layer, given its name in the architecture.

        Raises:
            ModelFormatError: The file lacks a tensor.
        """
        return [(t.kind.name, t.shape[0]) for _, t in self._tensors(layer, "weight")]

    def is_matrix(self, layer: str) -> bool:
        """Whether a layer's weights have rows and columns."""
        return len(self._tensors(layer, "weight")[0][1].shape) > 1

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
        nbytes = sum(tensor.nbytes for _, tensor in found)
        if _PART.match(parameter):
            tensor = found[0][1]
            return GGUFRecord(parameter, (tensor.shape[0], tensor.row_bytes), "uint8", nbytes)
        length = sum(int(np.prod(tensor.shape)) for _, tensor in found)
        return GGUFRecord(parameter, (length,), "float32", nbytes)

    def read_rows(self, record: GGUFRecord, pieces: Sequence[tuple[int, int]]) -> Iterator[Array]:
        """Read a parameter piece by piece, given the first row of each piece and its end.

        Yields:
            The rows, in memory that the next piece overwrites.

        Raises:
            ModelFormatError: The file has become shorter.
        """
        found = self._of(record.name)
        if not _PART.match(record.name):
            yield np.concatenate([self._vector(file, tensor) for file, tensor in found])
            return
        file, tensor = found[0]
        if self._head and tensor.name.endswith((".attn_q.weight", ".attn_k.weight")):
            for start, stop in pieces:
                yield self._head_rows(file, tensor, start, stop)
            return
        most = max((stop - start for start, stop in pieces), default=0)
        memory = np.empty(most * tensor.row_bytes, np.uint8)
        for start, stop in pieces:
            yield file.read_rows(tensor, start, stop, memory)

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

    def _of(self, parameter: str) -> list[tuple[GGUFFile, GGUFTensor]]:
        if part := _PART.match(parameter):
            return [self._tensors(part[1], "weight")[int(part[2])]]
        layer, _, kind = parameter.rpartition(".")
        return self._tensors(layer, kind)

    def _tensors(self, layer: str, kind: str) -> list[tuple[GGUFFile, GGUFTensor]]:
        """The file's tensors for the ``weight`` or ``bias`` of a layer."""
        prefix, name = "", layer
        if inside := _LAYER.match(layer):
            prefix, name = f"blk.{inside[1]}.", inside[2]
        found = []
        for stem in _NAMES.get(name, ()):
            full = f"{prefix}{stem}.{kind}"
            if full not in self._model.tensors:
                raise ModelFormatError(
                    f"{self.where} has no tensor {full}, which the model needs for {layer}: the "
                    "file is incomplete, or its architecture is not the one in its metadata.",
                    param="model_id",
                )
            found.append(self._model.tensors[full])
        if not found:
            raise ModelFormatError(
                f"{self.where}: the name of the layer {layer} in GGUF files is not known.",
                param="model_id",
            )
        return found
