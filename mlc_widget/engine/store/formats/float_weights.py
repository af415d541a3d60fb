"""A GGUF model's matrices as float16, for devices that have no kernels for ggml's blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlc_widget.engine.store.formats.ggml_types import TYPES_BY_NAME, dequantize
from mlc_widget.engine.store.formats.gguf_weights import GGUFRecord, GGUFWeights

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Matrix:
    """The tensors of a linear layer, concatenated by rows."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    parts: tuple[tuple[str, GGUFRecord], ...]


class FloatWeights:
    """A `WeightSource` whose linear layers have one ``weight`` in float16.

    Args:
        weights: The file's tensors; they are rounded to float16 once.
    """

    def __init__(self, weights: GGUFWeights) -> None:
        self._weights = weights
        self.where = weights.where
        self.layers, self.verify, self.close = weights.layers, weights.verify, weights.close
        self.identities = weights.identities

    def tensor_types(self) -> None:
        """None, as all parameters have the same quantization."""

    def types_of(self, layer: str) -> Sequence[tuple[str, int]]:
        """Not available, as tensors do not have types of their own."""
        raise ValueError(f"{layer}: these weights have one quantization")

    def find(self, name: str) -> GGUFRecord | _Matrix | None:
        """The parameter of that name."""
        layer, _, kind = name.rpartition(".")
        if kind != "weight" or not self._weights.is_matrix(layer):
            return self._weights.find(name)
        parts = [
            (kind, self._weights.find(f"{layer}.part{i}"))
            for i, (kind, _) in enumerate(self._weights.types_of(layer))
        ]
        ggml = TYPES_BY_NAME[parts[0][0]]
        inputs = parts[0][1].shape[1] // ggml.nbytes * ggml.block
        rows = sum(record.shape[0] for _, record in parts)
        nbytes = sum(record.nbytes for _, record in parts)
        return _Matrix(name, (rows, inputs), "float16", nbytes, tuple(parts))

    def read_rows(
        self, record: GGUFRecord | _Matrix, pieces: Sequence[tuple[int, int]]
    ) -> Iterator[Array]:
        """Read a parameter piece by piece."""
        if isinstance(record, GGUFRecord):
            yield from self._weights.read_rows(record, pieces)
            return
        for start, stop in pieces:
            yield np.concatenate(list(self._rows(record, start, stop)))

    def _rows(self, matrix: _Matrix, start: int, stop: int) -> Iterator[Array]:
        at = 0
        for kind, record in matrix.parts:
            first, last = max(start - at, 0), min(stop - at, record.shape[0])
            if first < last:
                [data] = self._weights.read_rows(record, [(first, last)])
                floats = dequantize(TYPES_BY_NAME[kind], data, matrix.shape[1])
                yield floats.astype(np.float16)
            at += record.shape[0]
