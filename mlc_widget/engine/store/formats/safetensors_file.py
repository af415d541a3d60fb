"""Reads safetensors files (https://github.com/huggingface/safetensors#format).

A file consists of 8 bytes with the length of a header, the header in JSON, and the tensors' bytes
without gaps. Files are not trusted: every length and offset is compared with the file's size and
with a limit before memory is allocated, and the file is checked and read through the same
descriptor.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.api.request_values import shortened
from mlc_widget.engine.store.formats.binary_file import BinaryFile

Array = npt.NDArray[Any]

_MAX_HEADER: Final = 8 << 20
"""The maximum size of a header in bytes; a layer's tensors take some 2,000."""
_MAX_TENSORS: Final = 1 << 16
_MAX_NAME: Final = 1 << 10
_MAX_DIMENSIONS: Final = 8
_MAX_EXTENT: Final = 1 << 48
_BITS: Final = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8,
    "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
FLOATS: Final = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""Types that can be read, and numpy's type for their bytes."""


@dataclass(frozen=True, slots=True)
class SafetensorsTensor:
    """One tensor.

    Attributes:
        name: Its name in the file.
        dtype: Its type by the format's name, such as ``BF16``.
        shape: Its shape.
        offset: The position of its first byte in the file.
        nbytes: Its size in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class SafetensorsFile(BinaryFile):
    """An open safetensors file. Close it when it is no longer needed.

    Args:
        path: The file.

    Attributes:
        header: The JSON before the tensors.
        tensors: Its tensors by name.

    Raises:
        ModelFormatError: It is not a safetensors file, or it is damaged.
        UnsupportedModelError: A tensor has an unknown type.
    """

    def __init__(self, path: Path) -> None:
        self.tensors: dict[str, SafetensorsTensor] = {}
        super().__init__(path)

    def read_rows(self, tensor: SafetensorsTensor, start: int, stop: int) -> Array:
        """Rows `start` to `stop` of a tensor of floats; safe from any thread.

        Returns:
            (rows, …) float16 or float32; bfloat16 comes as float32.

        Raises:
            ModelFormatError: The file has become shorter, or was written to.
        """
        dtype = np.dtype(FLOATS[tensor.dtype])
        inner = tensor.shape[1:]
        row = int(np.prod(inner, dtype=np.int64)) * dtype.itemsize
        data = np.empty((stop - start) * row, np.uint8)
        self.fill(memoryview(data.data), tensor.offset + start * row)
        rows: Array = data.view(dtype).reshape(stop - start, *inner)
        if tensor.dtype == "BF16":
            rows = np.left_shift(rows, 16, dtype=np.uint32).view(np.float32)
        return rows

    def _wrong(self, what: str) -> ModelFormatError:
        return ModelFormatError(
            f"{self.path} is not a valid safetensors file: {what}. Download it again.",
            param=str(self.path),
        )

    def _read(self) -> None:
        self.header = self._read_header()
        self._parse()

    def _read_header(self) -> bytes:
        if self.size < 8:
            raise self._wrong(f"it has {self.size} bytes")
        prefix = bytearray(8)
        self.fill(memoryview(prefix), 0)
        length = int.from_bytes(prefix, "little")
        if length > self.size - 8:
            if prefix.startswith(b"version "):
                raise self._wrong("it is a pointer that Git LFS left in its place")
            raise self._wrong(
                f"its header has {length} bytes, and the file {self.size}: it was cut short, or "
                "has another format"
            )
        if length > _MAX_HEADER:
            raise self._wrong(f"its header has {length} bytes; at most {_MAX_HEADER} are allowed")
        header = bytearray(length)
        self.fill(memoryview(header), 8)
        return bytes(header)

    def _parse(self) -> None:
        try:
            listed = json.loads(self.header.decode(), object_pairs_hook=_without_doubles)
        except (ValueError, RecursionError) as error:
            what = "nested too deep" if isinstance(error, RecursionError) else error
            raise self._wrong(f"its header is not JSON ({what})") from None
        if not isinstance(listed, dict):
            raise self._wrong("its header is not an object")
        listed.pop("__metadata__", None)
        if len(listed) > _MAX_TENSORS:
            raise self._wrong(f"it lists {len(listed)} tensors; at most {_MAX_TENSORS} are allowed")
        start = 8 + len(self.header)
        found = [self._tensor(name, entry, start) for name, entry in listed.items()]
        at = start
        for tensor in sorted(found, key=lambda t: (t.offset, t.nbytes)):
            if tensor.offset != at:
                what = "overlaps the one before it" if tensor.offset < at else "follows a gap"
                raise self._wrong(f"tensor {tensor.name!r} {what}")
            at += tensor.nbytes
            self.tensors[tensor.name] = tensor
        if at != self.size:
            raise self._wrong(
                f"its tensors end at byte {at}, and it has {self.size}: it is cut short, or "
                "something was added"
            )

    def _tensor(self, name: str, entry: Any, start: int) -> SafetensorsTensor:
        shown = shortened(name)
        if not 0 < len(name) <= _MAX_NAME:
            raise self._wrong(f"a tensor's name has {len(name)} characters")
        if not isinstance(entry, dict):
            raise self._wrong(f"tensor {shown} is {shortened(entry)}, not an object")
        dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
        if not isinstance(dtype, str) or dtype not in _BITS:
            raise UnsupportedModelError(
                f"{self.path}: tensor {shown} has the dtype {shortened(dtype)}, which is not "
                "known. Choose the same model in BF16, F16 or F32.",
                param=str(self.path),
            )
        if (
            not isinstance(shape, list)
            or len(shape) > _MAX_DIMENSIONS
            or not all(_is_count(extent) for extent in shape)
        ):
            raise self._wrong(f"tensor {shown} has the shape {shortened(shape)}")
        if (
            not isinstance(offsets, list)
            or len(offsets) != 2
            or not all(_is_count(offset) for offset in offsets)
            or not offsets[0] <= offsets[1] <= self.size - start
        ):
            raise self._wrong(
                f"tensor {shown} has the data_offsets {shortened(offsets)}, and there are "
                f"{self.size - start} bytes"
            )
        bits = _BITS[dtype]
        for extent in shape:  # in Python's integers, which cannot overflow
            bits *= extent
        nbytes = offsets[1] - offsets[0]
        if bits != 8 * nbytes:
            raise self._wrong(
                f"tensor {shown} has {nbytes} bytes, and {dtype}{shape} takes {bits / 8:g}"
            )
        return SafetensorsTensor(name, dtype, tuple(shape), start + offsets[0], nbytes)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_EXTENT


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found
