"""The parameters of an MLC model folder: ``tensor-cache.json`` and its shards.

The format is that of ``tvm.contrib.tvmjs.dump_tensor_cache``; the file's older name is
``ndarray-cache.json``. Reading it needs only numpy.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.engine.store.model_files import check_regular, open_regular
from mlc_widget.engine.store.verification import (
    FileIdentity,
    PublishedFile,
    VerifyPolicy,
    changed_meanwhile,
    verify_files,
)

Array = npt.NDArray[Any]
Encoding: TypeAlias = Literal["raw", "f32-to-bf16"]

NAMES: Final = ("tensor-cache.json", "ndarray-cache.json")
_LONGEST_NAME: Final = 255
_DTYPES: Final = ("float32", "float16", "uint32", "int32", "uint16", "int16", "uint8", "int8")
_LAYER: Final = re.compile(r"\blayers?\.(\d{1,6})\.")
_LONGEST_LIST: Final = 1 << 26
"""The maximum size of the JSON file in bytes; that of a model of 400 GB has 1 MB."""


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One parameter.

    Attributes:
        name: MLC's name.
        shape: Its shape.
        dtype: Its dtype after reading; a bfloat16 tensor is read as float32.
        bf16: Whether it is stored as bfloat16.
        shard: The file that has it.
        offset: The position of its first byte in the file.
        nbytes: Its size in the file in bytes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bf16: bool
    shard: Path
    offset: int
    nbytes: int


class TensorCache:
    """The parameters of a model folder, checked against the files' sizes.

    Attributes:
        file: The JSON file.
        records: Every parameter, in the order of the files.
    """

    def __init__(
        self, file: Path, shards: list[PublishedFile], records: Mapping[str, TensorRecord]
    ) -> None:
        self.file = file
        self.records = records
        self._shards = shards
        self._verified: Mapping[Path, FileIdentity] = {}

    @classmethod
    def from_folder(cls, folder: Path | str) -> TensorCache:
        """Read the list and check that all shards exist and have the right size.

        Raises:
            ModelFormatError: A file is missing, malformed or truncated; `param` names it.
        """
        folder = Path(folder)
        file = next((folder / n for n in NAMES if (folder / n).is_file()), None)
        if file is None:
            raise ModelFormatError(
                f"{folder / NAMES[0]} is missing (and so is {NAMES[1]}). The folder holds no "
                "weights; download the model again, or convert it with `mlc_llm convert_weight`.",
                param=str(folder / NAMES[0]),
            )
        try:
            content = json.loads(_read_list(file))
            parsed = _parse(folder, content["records"])
        except OSError as e:
            raise ModelFormatError(
                f"{file} cannot be read: {e.strerror or e}.", param=str(file)
            ) from e
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            what = f"no field {e}" if isinstance(e, KeyError) else str(e)
            raise ModelFormatError(
                f"{file} is not a list of parameters as MLC writes it: {what}.",
                param=str(file),
            ) from e
        shards, records = parsed
        for shard in shards:
            _check_size(shard)
        return cls(file, shards, records)

    @property
    def where(self) -> str:
        """The file that lists the parameters."""
        return str(self.file)

    def find(self, name: str) -> TensorRecord | None:
        """The parameter of that name, or None."""
        return self.records.get(name)

    def layers(self) -> int:
        """The number of layers with parameters."""
        return len({m[1] for name in self.records if (m := _LAYER.search(name))})

    def identities(self) -> Mapping[Path, FileIdentity]:
        """The list and its shards, as they are now; empty if one is gone."""
        paths = [self.file, *(shard.path for shard in self._shards)]
        try:
            return {path: FileIdentity.of(path) for path in paths}
        except OSError:
            return {}

    def tensor_types(self) -> None:
        """None, as all parameters have the same quantization."""

    def types_of(self, layer: str) -> Sequence[tuple[str, int]]:
        """Not available, as parameters of this format do not have types of their own."""
        raise ValueError(f"{layer}: MLC's parameters have one quantization")

    def close(self) -> None:
        """Do nothing, as no file stays open."""

    @property
    def nbytes(self) -> int:
        """The size of all shards in bytes."""
        return sum(s.nbytes for s in self._shards)

    def read(self, record: TensorRecord) -> Array:
        """Read a parameter as an array of its `shape` and `dtype`.

        Raises:
            ModelFormatError: The shard became unreadable or shorter.
        """
        [rows] = self.read_rows(record, [(0, record.shape[0] if record.shape else 1)])
        return rows.reshape(record.shape)

    def read_rows(self, record: TensorRecord, pieces: Sequence[tuple[int, int]]) -> Iterator[Array]:
        """Read a parameter piece by piece, so that only one piece is in memory at a time.

        Args:
            record: The parameter.
            pieces: The first row (along its first axis) of each piece, and the end of the piece.

        Yields:
            The rows, in memory that the next piece overwrites.

        Raises:
            ModelFormatError: The shard became unreadable or shorter.
        """
        stored = np.dtype(np.uint16 if record.bf16 else record.dtype)
        inner = record.shape[1:]
        row = math.prod(inner) * stored.itemsize
        most = max((stop - start for start, stop in pieces), default=0)
        memory = np.empty(most * row, np.uint8)
        try:
            with open_regular(record.shard) as file:
                self._check_unchanged(file, record.shard)
                for start, stop in pieces:
                    part = memory[: (stop - start) * row]
                    file.seek(record.offset + start * row)
                    _fill(file, part)
                    rows = part.view(stored).reshape(stop - start, *inner)
                    yield _widened(rows) if record.bf16 else rows
                self._check_unchanged(file, record.shard)
        except OSError as e:
            raise ModelFormatError(
                f"{record.shard} cannot be read for {record.name}: {e.strerror or e}.",
                param=str(record.shard),
            ) from e

    def verify(
        self,
        progress: Callable[[int, int], None] | None = None,
        policy: VerifyPolicy = "always",
        cache_root: Path | None = None,
    ) -> None:
        """Compare every shard with its MD5 sum, if the list has one.

        A shard that is changed later can no longer be read.

        Args:
            progress: Called with the bytes done and the total; an exception from it ends the work.
            policy: See `verify_files`.
            cache_root: See `verify_files`.

        Raises:
            ModelFormatError: A shard is not the one that was published.
        """
        self._verified = verify_files(
            self._shards, self.file, progress, policy=policy, cache_root=cache_root
        )

    def _check_unchanged(self, file: io.FileIO, shard: Path) -> None:
        """Raise ModelFormatError if a shard has changed since it was verified."""
        verified = self._verified.get(shard)
        if verified is not None and not FileIdentity.of(file.fileno()).same_content(verified):
            raise changed_meanwhile(shard)


def _read_list(file: Path) -> bytes:
    with open_regular(file) as opened, io.BufferedReader(opened) as buffered:
        content = buffered.read(_LONGEST_LIST + 1)
    if len(content) > _LONGEST_LIST:
        raise ValueError(f"it is longer than {_LONGEST_LIST} bytes")
    return content


def _is_file_name(name: Any) -> bool:
    return (
        isinstance(name, str)
        and name not in {"", ".", ".."}
        and len(name) <= _LONGEST_NAME
        and set(name).isdisjoint("/\\\0")
    )


def _parse(folder: Path, listed: Any) -> tuple[list[PublishedFile], dict[str, TensorRecord]]:
    """Parse shards and records; raises ValueError, KeyError or TypeError if malformed."""
    shards: list[PublishedFile] = []
    records: dict[str, TensorRecord] = {}
    if not isinstance(listed, list) or not listed:
        raise ValueError("`records` must be a list of shards")
    for entry in listed:
        name = entry["dataPath"]
        if not _is_file_name(name):
            raise ValueError(f"dataPath {name!r} must be the name of a file in the folder")
        if entry["format"] != "raw-shard":
            raise ValueError(f"{name} has format {entry['format']!r}; only raw-shard is known")
        size = _count(entry["nbytes"], "nbytes")
        shard = PublishedFile(folder / name, size, _md5(entry.get("md5sum"), name))
        shards.append(shard)
        for item in entry["records"]:
            record = _record(shard, item)
            if record.name in records:
                raise ValueError(f"{record.name} is listed twice")
            records[record.name] = record
    return shards, records


def _record(shard: PublishedFile, item: Mapping[str, Any]) -> TensorRecord:
    name, dtype, encoding = item["name"], item["dtype"], item["format"]
    if not isinstance(name, str):
        raise ValueError(f"{name!r} is not a parameter's name")
    shape = tuple(_count(d, f"{name}.shape") for d in item["shape"])
    if dtype == "bfloat16" and encoding == "raw":
        dtype, bf16 = "float32", True
    elif dtype in _DTYPES and encoding == "raw":
        bf16 = False
    elif encoding == "f32-to-bf16" and dtype in _DTYPES:
        bf16 = dtype == "float32"  # other dtypes with this format are stored unchanged
    else:
        raise ValueError(
            f"{name} has dtype {dtype!r} in format {encoding!r}, which is not supported"
        )
    nbytes, offset = _count(item["nbytes"], "nbytes"), _count(item["byteOffset"], "byteOffset")
    size = 2 if bf16 else np.dtype(dtype).itemsize
    for extent in shape:
        size *= extent
    if nbytes != size:
        raise ValueError(f"{name} has {nbytes} bytes; its shape {shape} needs {size}")
    if offset + nbytes > shard.nbytes:
        raise ValueError(f"{name} ends beyond its shard {shard.path.name}")
    return TensorRecord(name, shape, dtype, bf16, shard.path, offset, nbytes)


def _md5(value: Any, name: str) -> str | None:
    """Check an MD5 sum of the list; None if there is none."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not re.fullmatch("[0-9a-fA-F]{32}", value):
        raise ValueError(f"md5sum of {name} is {value!r}; it must be 32 hexadecimal digits")
    return value.lower()


def _count(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{what} is {value!r}; it must be an integer, 0 or more")
    return value


def _check_size(shard: PublishedFile) -> None:
    try:
        info = shard.path.stat()
    except OSError:
        raise ModelFormatError(
            f"{shard.path} is missing. Download it again, or the whole model.",
            param=str(shard.path),
        ) from None
    check_regular(shard.path, info)
    if info.st_size != shard.nbytes:
        raise ModelFormatError(
            f"{shard.path} has {info.st_size} bytes and should have {shard.nbytes}: the download "
            "was cut short, or Git LFS left a pointer in its place. Download it again.",
            param=str(shard.path),
        )


def _fill(file: io.FileIO, memory: Array) -> None:
    """Read until the memory is full; raises OSError if the file is too short."""
    view = memory.data
    while view:
        count = file.readinto(view)
        if not count:
            raise OSError("the file is too short")
        view = view[count:]


def _widened(stored: Array) -> Array:
    """Convert bfloat16 to float32."""
    return np.left_shift(stored, 16, dtype=np.uint32).view(np.float32)
