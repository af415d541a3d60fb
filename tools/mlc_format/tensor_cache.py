"""Parameters in files: ``tensor-cache.json`` and its ``params_shard_N.bin``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .quantization import Array

EncodeFormat = Literal["raw", "f32-to-bf16"]


def to_bf16(value: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round float32 to bfloat16 (nearest even); returns the upper 16 bits as uint16."""
    bits = np.ascontiguousarray(value, dtype=np.float32).view(np.uint32)
    bias = ((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF)
    return ((bits + bias) >> np.uint32(16)).astype(np.uint16)


def from_bf16(value: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Expand bfloat16 bits to float32, exactly."""
    return (value.astype(np.uint32) << np.uint32(16)).view(np.float32)


def write_params(
    folder: Path,
    params: Mapping[str, Array],
    *,
    shard_bytes: int = 32 << 20,
    cache_name: str = "tensor-cache.json",
    encode_format: EncodeFormat = "f32-to-bf16",
    codes_per_word: int = 8,
) -> None:
    """Write ``params_shard_N.bin`` and the JSON that lists them, as ``dump_tensor_cache`` does.

    Args:
        folder: existing folder to write to.
        params: name → array, float32, float16 or uint32, written in this order.
        shard_bytes: The size in bytes that a shard must not reach if it has several parameters.
        cache_name: ``tensor-cache.json`` or ``ndarray-cache.json``.
        encode_format: ``f32-to-bf16`` stores float32 arrays rounded to bfloat16, which is what
            mlc_llm does; ``raw`` stores them as they are.
        codes_per_word: The number of codes in each element of ``q_weight``, for the metadata.
    """
    records: list[dict[str, Any]] = []
    pending: list[dict[str, Any]] = []
    data = bytearray()

    def commit() -> None:
        if not pending:
            return
        path = f"params_shard_{len(records)}.bin"
        (folder / path).write_bytes(data)
        records.append(
            {
                "dataPath": path,
                "format": "raw-shard",
                "nbytes": len(data),
                "records": pending.copy(),
                "md5sum": hashlib.md5(data, usedforsecurity=False).hexdigest(),
            }
        )
        pending.clear()
        data.clear()

    for name, value in params.items():
        if value.dtype == np.float32 and encode_format == "f32-to-bf16":
            encoded = to_bf16(value).tobytes()
        else:
            encoded = np.ascontiguousarray(value).tobytes()
        if pending and len(data) + len(encoded) >= shard_bytes:
            commit()
        pending.append(
            {
                "name": name,
                "shape": list(value.shape),
                "dtype": str(value.dtype),
                "format": encode_format,
                "nbytes": len(encoded),
                "byteOffset": len(data),
            }
        )
        data += encoded
    commit()

    elements = sum(
        value.size * (codes_per_word if name.endswith(".q_weight") else 1)
        for name, value in params.items()
        if not name.endswith(".q_scale")
    )
    total = float(sum(value.nbytes for value in params.values()))
    metadata = {
        "ParamSize": len(params),
        "ParamBytes": total,
        "BitsPerParam": total * 8.0 / elements,
    }
    text = json.dumps({"metadata": metadata, "records": records}, indent=1)
    (folder / cache_name).write_text(text + "\n", encoding="utf-8")


def read_params(folder: Path, cache_name: str = "tensor-cache.json") -> dict[str, Array]:
    """Read what `write_params` wrote; bfloat16 comes back as float32.

    Raises:
        ValueError: if a shard's size or checksum, or a record's size, is not what the JSON says.
    """
    params: dict[str, Array] = {}
    for shard in json.loads((folder / cache_name).read_text(encoding="utf-8"))["records"]:
        data = (folder / shard["dataPath"]).read_bytes()
        if len(data) != shard["nbytes"]:
            raise ValueError(f"{shard['dataPath']} has {len(data)} bytes, not {shard['nbytes']}")
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != shard["md5sum"]:
            raise ValueError(f"{shard['dataPath']} does not match its md5sum")
        for record in shard["records"]:
            start = record["byteOffset"]
            piece = data[start : start + record["nbytes"]]
            value: Array
            if record["dtype"] == "float32" and record["format"] == "f32-to-bf16":
                value = from_bf16(np.frombuffer(piece, dtype=np.uint16))
            else:
                value = np.frombuffer(piece, dtype=record["dtype"])
            if value.size != int(np.prod(record["shape"])):
                raise ValueError(f"{record['name']} does not fill its shape {record['shape']}")
            params[record["name"]] = value.reshape(record["shape"])
    return params
