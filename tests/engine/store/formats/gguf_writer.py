"""Makes GGUF files for tests, by the `gguf` package and by hand where they are to be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from mlc_widget.engine.store.formats.ggml_types import GGML_TYPES, GGMLType

READABLE = [kind for kind in GGML_TYPES.values() if kind.readable]
_SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82],
    "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
}  # fmt: skip
"""Bytes of a block at which float16 scales lie."""


def random_blocks(kind: GGMLType, rows: int, inputs: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """(rows, bytes) uint8 of a type, with every code and scales as weights have them."""
    random = np.random.default_rng(seed)
    if kind.block == 1:
        weights = random.standard_normal((rows, inputs)).astype(np.float32) / 16
        if kind.name == "BF16":
            return (weights.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        return weights.astype("f2" if kind.name == "F16" else "f4").view(np.uint8)
    blocks = random.integers(0, 256, (rows, inputs // kind.block, kind.nbytes), dtype=np.uint8)
    if kind.name == "MXFP4":
        blocks[:, :, 0] = random.integers(118, 126, blocks.shape[:2])
    for at in _SCALES.get(kind.name, []):
        scale = np.abs(random.standard_normal((*blocks.shape[:2], 1))) / 64
        blocks[:, :, at : at + 2] = scale.astype(np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def write(
    path: Path,
    tensors: dict[str, tuple[GGMLType, np.ndarray[Any, Any]]],
    fields: dict[str, Any] | None = None,
) -> Path:
    """A file of the `gguf` package's making."""
    fields = dict(fields or {})
    writer = gguf.GGUFWriter(path, fields.pop("general.architecture", "llama"))
    for key, value in fields.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_array(key, value)
    for name, (kind, data) in tensors.items():
        if kind.name in ("F32", "F16"):
            data = data.view("f4" if kind.name == "F32" else "f2")
            writer.add_tensor(name, data)
        else:
            writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType(kind.id))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
