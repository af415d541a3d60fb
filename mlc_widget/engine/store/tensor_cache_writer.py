"""Writes ``tensor-cache.json`` and its shards, as `tensor_cache` and mlc_llm read them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from io import BufferedWriter
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

Array = npt.NDArray[Any]

_SHARD: Final = 64 << 20
"""The maximum size of a shard in bytes, unless a single parameter is larger."""


class TensorCacheWriter:
    """Writes parameters one after the other; `finish` writes the list of all.

    Args:
        folder: The folder to write to; it must not contain parameters.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: list[dict[str, Any]] = []
        self._records: list[dict[str, Any]] = []
        self._file: BufferedWriter | None = None
        self._size, self._count, self._total = 0, 0, 0
        self._md5 = hashlib.md5(usedforsecurity=False)

    def add(
        self, name: str, shape: Sequence[int], dtype: str, nbytes: int, pieces: Iterable[Array]
    ) -> None:
        """Write a parameter.

        Args:
            name: MLC's name.
            shape: Its shape.
            dtype: ``float16``, ``float32`` or ``uint32``.
            nbytes: Its size in bytes.
            pieces: Its content, in order.

        Raises:
            OSError: It cannot be written.
        """
        if self._size and self._size + nbytes > _SHARD:
            self._end_shard()
        if self._file is None:
            self._file = (self._folder / f"params_shard_{len(self._shards)}.bin").open("xb")
        start = self._size
        for piece in pieces:
            data = piece.data.cast("B")
            self._file.write(data)
            self._md5.update(data)
            self._size += len(data)
        if self._size - start != nbytes:
            raise ValueError(f"{name} has {self._size - start} bytes, not {nbytes}")
        record = {"name": name, "shape": list(shape), "dtype": dtype, "format": "raw"}
        self._records.append({**record, "nbytes": nbytes, "byteOffset": start})
        self._count += 1
        self._total += nbytes

    def finish(self, weights: int) -> None:
        """Write the list.

        Args:
            weights: How many weights the model has.

        Raises:
            OSError: It cannot be written.
        """
        self._end_shard()
        metadata = {
            "ParamSize": self._count,
            "ParamBytes": float(self._total),
            "BitsPerParam": self._total * 8.0 / max(1, weights),
        }
        listed = json.dumps({"metadata": metadata, "records": self._shards}, indent=1)
        write_whole(self._folder / "tensor-cache.json", listed.encode())

    def close(self) -> None:
        """Close what is open. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _end_shard(self) -> None:
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()
        self._shards.append(
            {
                "dataPath": f"params_shard_{len(self._shards)}.bin",
                "format": "raw-shard",
                "nbytes": self._size,
                "records": self._records,
                "md5sum": self._md5.hexdigest(),
            }
        )
        self._records, self._size = [], 0
        self._md5 = hashlib.md5(usedforsecurity=False)


def write_whole(path: Path, content: bytes) -> None:
    """Write a new file, and wait until it is on the disk.

    Raises:
        OSError: It cannot be written.
    """
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
