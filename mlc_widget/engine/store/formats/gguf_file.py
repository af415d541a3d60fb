"""Reads GGUF files: their metadata, and the positions of their tensors.

ggml's ``docs/gguf.md`` describes the format. Files are not trusted: every count, length and offset
is compared with the file's size and with a limit before memory is allocated for it, and the file is
read through one descriptor, so that the checked file is the one that is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mlc_widget.api.closing import Closing
from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.engine.store.formats.binary_file import BinaryFile
from mlc_widget.engine.store.formats.ggml_types import GGML_TYPES, GGMLType
from mlc_widget.engine.store.formats.gguf_values import HeaderReader
from mlc_widget.engine.store.verification import FileIdentity

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_MAX_TENSORS: Final = 1 << 16
_MAX_FIELDS: Final = 1 << 14
_MAX_KEY: Final = 1 << 16
_MAX_HEADER: Final = 1 << 28
"""The maximum number of bytes before the tensors' data."""
_MAX_DIMENSIONS: Final = 4
_MAX_SPLITS: Final = 1000
_SPLIT_NAME: Final = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One tensor.

    Attributes:
        name: Its name in the file, such as ``blk.0.attn_q.weight``.
        shape: Its shape in numpy's order, rows first (the file has the inputs of a row first).
        kind: Its type.
        offset: The position of its first byte in the file.
        nbytes: Its size in bytes.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLType
    offset: int
    nbytes: int

    @property
    def row_bytes(self) -> int:
        """The size in bytes of one row of `shape[-1]` weights."""
        return self.shape[-1] // self.kind.block * self.kind.nbytes


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """What must be known of a file to read its tensors, without its vocabulary.

    Attributes:
        identity: The state of the file in which this was read.
        fields: Its metadata without the tokenizer's, which takes most of the time and memory.
        tensors: Its tensors by name.
    """

    identity: FileIdentity
    fields: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]


class GGUFFile(BinaryFile):
    """An open GGUF file. Close it, or use it in ``with``.

    Args:
        path: The file.
        known: Its header, if that was read before. It is read again if the file has changed.

    Attributes:
        fields: Its metadata by key; arrays are lists of strings, or numpy arrays.
        tensors: Its tensors by name, in the file's order.

    Raises:
        ModelFormatError: it is not a GGUF file, or it is damaged.
        UnsupportedModelError: a version or a type of tensor that this does not read.
    """

    def __init__(self, path: Path, known: GGUFHeader | None = None) -> None:
        self.fields: dict[str, Any] = {}
        self.tensors: dict[str, GGUFTensor] = {}
        self._known = known
        super().__init__(path)

    @property
    def header(self) -> GGUFHeader:
        """What another `GGUFFile` of the same file need not read again."""
        fields = {k: v for k, v in self.fields.items() if not k.startswith("tokenizer.")}
        return GGUFHeader(self.identity, fields, self.tensors)

    def read_rows(
        self,
        tensor: GGUFTensor,
        start: int,
        stop: int,
        memory: npt.NDArray[np.uint8] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Read the bytes of rows `start` to `stop` of a tensor; may be called from any thread.

        Args:
            tensor: The tensor.
            start: The first row.
            stop: The row after the last.
            memory: Where to put them, if not in new memory.

        Returns:
            (rows, `tensor.row_bytes`) uint8.

        Raises:
            ModelFormatError: The file has become shorter.
        """
        width = tensor.row_bytes
        size = (stop - start) * width
        data = np.empty(size, np.uint8) if memory is None else memory[:size]
        self.fill(memoryview(data.data), tensor.offset + start * width)
        return data.reshape(stop - start, width)

    # The header

    def _wrong(self, what: str) -> ModelFormatError:
        return ModelFormatError(f"{self.path} is not a valid GGUF file: {what}.", param="model_id")

    def _read(self) -> None:
        if self._known is not None and self._known.identity == self.identity:
            self.fields, self.tensors = dict(self._known.fields), dict(self._known.tensors)
            return
        header = HeaderReader(self.read_at, min(self.size, _MAX_HEADER), self._wrong)
        if header.take(4) != _MAGIC:
            raise self._wrong("it does not begin with GGUF")
        version = header.number("<u4")
        if version not in _VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            detail = "big-endian" if swapped in _VERSIONS else f"of GGUF version {version}"
            raise UnsupportedModelError(
                f"{self.path} is {detail}; little-endian versions 2 and 3 can be read. Convert it "
                "again with a current llama.cpp.",
                param="model_id",
            )
        tensors = header.bounded("tensors", _MAX_TENSORS)
        fields = header.bounded("metadata fields", _MAX_FIELDS)
        for _ in range(fields):
            key = header.string(_MAX_KEY)
            if key in self.fields:
                raise self._wrong(f"metadata field {key!r} appears twice")
            self.fields[key] = header.value()
        alignment = self.fields.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment not in (8, 16, 32, 64, 128, 256, 4096):
            raise self._wrong(
                f"general.alignment is {alignment!r}, which is not a supported power of two"
            )
        found = [self._tensor(header) for _ in range(tensors)]
        start = -(-header.at // alignment) * alignment
        self._place(found, start, alignment)

    def _tensor(self, header: HeaderReader) -> GGUFTensor:
        name = header.string(_MAX_KEY)
        count = header.number("<u4")
        if not 1 <= count <= _MAX_DIMENSIONS:
            raise self._wrong(f"tensor {name!r} has {count} dimensions")
        shape = tuple(header.number("<u8") for _ in range(count))[::-1]
        number, offset = header.number("<u4"), header.number("<u8")
        kind = GGML_TYPES.get(number)
        if kind is None or not kind.readable:
            named = f"ggml's type {number}" if kind is None else kind.name
            known = ", ".join(t.name for t in GGML_TYPES.values() if t.readable)
            raise UnsupportedModelError(
                f"{self.path}: tensor {name!r} is {named}; the supported types are {known}. Choose "
                "another quantization of this model, such as Q4_K_M or Q8_0.",
                param="model_id",
            )
        if min(shape) < 1 or shape[-1] % kind.block:
            raise self._wrong(f"tensor {name!r} of type {kind.name} has the shape {list(shape)}")
        weights = 1
        for size in shape:  # Python's integers cannot overflow
            weights *= size
        return GGUFTensor(name, shape, kind, offset, weights // kind.block * kind.nbytes)

    def _place(self, found: list[GGUFTensor], start: int, alignment: int) -> None:
        end = 0
        for tensor in sorted(found, key=lambda t: t.offset):
            if tensor.offset % alignment or tensor.offset < end:
                raise self._wrong(
                    f"tensor {tensor.name!r} starts at offset {tensor.offset}, which is not "
                    "aligned or belongs to another tensor"
                )
            end = tensor.offset + tensor.nbytes
            if start + end > self.size:
                raise self._wrong(
                    f"tensor {tensor.name!r} ends at byte {start + end} of {self.size}; the file "
                    "was cut short"
                )
        for tensor in found:
            if tensor.name in self.tensors:
                raise self._wrong(f"tensor {tensor.name!r} appears twice")
            self.tensors[tensor.name] = GGUFTensor(
                tensor.name, tensor.shape, tensor.kind, start + tensor.offset, tensor.nbytes
            )


def split_paths(path: Path) -> list[Path]:
    """The files of a model that was split by llama.cpp, in order; only `path` if it is not split.

    Args:
        path: Any of the files, named like ``NAME-00001-of-00003.gguf``.

    Raises:
        ModelFormatError: One of the files is missing.
    """
    match = _SPLIT_NAME.match(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count <= _MAX_SPLITS:
        raise ModelFormatError(f"{path} is not named like a part of a model.", param="model_id")
    parts = [
        path.with_name(f"{match['stem']}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)
    ]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise ModelFormatError(
            f"{', '.join(missing[:3])} {'is' if len(missing) == 1 else 'are'} missing: this model "
            f"has {count} parts, all of which must be in one folder, here {path.parent}.",
            param="model_id",
        )
    return parts


class GGUFModel(Closing):
    """A model in one GGUF file or several.

    Args:
        path: The file, or any part of a split model.
        known: The `headers` of a model that was opened before.

    Attributes:
        files: Its files, open.
        fields: The first file's metadata.
        tensors: All tensors by name, each with its file.

    Raises:
        ModelFormatError: A file is missing or damaged, or the parts do not belong together.
        UnsupportedModelError: As for `GGUFFile`.
    """

    def __init__(self, path: Path, known: Mapping[Path, GGUFHeader] | None = None) -> None:
        self.files: list[GGUFFile] = []
        self.tensors: dict[str, tuple[GGUFFile, GGUFTensor]] = {}
        try:
            paths = split_paths(path)
            for i, part in enumerate(paths):
                file = GGUFFile(part, (known or {}).get(part))
                self.files.append(file)
                self._check_part(file, i, len(paths))
                for name, tensor in file.tensors.items():
                    if name in self.tensors:
                        raise ModelFormatError(
                            f"{part}: tensor {name!r} is also in another part of the model.",
                            param="model_id",
                        )
                    self.tensors[name] = (file, tensor)
        except BaseException:
            self.close()
            raise
        self.fields: Mapping[str, Any] = self.files[0].fields

    @property
    def headers(self) -> dict[Path, GGUFHeader]:
        """The headers of its files, for opening the model again."""
        return {file.path: file.header for file in self.files}

    def _check_part(self, file: GGUFFile, number: int, count: int) -> None:
        said = file.fields.get("split.count", 1) or 1
        if said != count or (count > 1 and file.fields.get("split.no") != number):
            raise ModelFormatError(
                f"{file.path} says that it is part {file.fields.get('split.no', 0) + 1} of {said}, "
                f"and its name says {number + 1} of {count}: do not rename the parts of a model.",
                param="model_id",
            )

    def close(self) -> None:
        """Close all files. Idempotent."""
        for file in self.files:
            file.close()
