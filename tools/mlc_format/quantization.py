"""The quantizations of MLC's parameters, and their codes and scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Quantization = Literal["q0f16", "q0f32", "q4f16_0", "q4f16_1", "q4f32_1", "q8f16_1"]

GROUP_SIZE = 32

MODEL_DTYPE: dict[str, type[np.floating[Any]]] = {
    "q0f16": np.float16,
    "q0f32": np.float32,
    "q4f16_0": np.float16,
    "q4f16_1": np.float16,
    "q4f32_1": np.float32,
    "q8f16_1": np.float16,
}
"""The dtype of scales, and of parameters that are not quantised, by quantization."""

CODE_BITS = {"q4f16_0": 4, "q4f16_1": 4, "q4f32_1": 4, "q8f16_1": 8}
"""Bits of a code, of the quantizations that have codes."""


def quantize_group(
    weight: Array, *, scale_dtype: npt.DTypeLike = np.float32, bits: int = 4
) -> tuple[npt.NDArray[np.uint32], Array]:
    """Quantise a matrix as mlc_llm's group quantisation does (layout NK, groups of 32 on K).

    Args:
        weight: (N, K) floating. If K is not a multiple of 32, the rest of the last group has code 0
            and is never read.
        scale_dtype: the model's dtype, float32 or float16. As in mlc_llm the weight is cast to it
            first and all arithmetic is done in it.
        bits: The bits of a code, 4 or 8.

    Returns:
        q_weight: (N, G * bits) uint32 for G groups. With P = 32 / bits codes to a word, element k
            of a row sits in word k // P at bits ``bits * (k % P)``; its value is
            ``clip(rint(w / scale + zero), 0, 2 zero)``, zero being 7 or 127.
        q_scale: (N, G) of scale_dtype, ``max|w| / zero`` of each group.

    Raises:
        ValueError: The weight is not a matrix, or has an infinite or undefined element.
    """
    dtype = np.dtype(scale_dtype)
    if weight.ndim != 2:
        raise ValueError(f"weight has shape {weight.shape}: group quantisation needs (N, K)")
    if not np.isfinite(weight).all():
        raise ValueError("weight has a NaN or an infinity and cannot be quantised")
    n, k = weight.shape
    groups = -(-k // GROUP_SIZE)
    padded = np.zeros((n, groups * GROUP_SIZE), dtype)
    padded[:, :k] = weight
    values = padded.reshape(n, groups, GROUP_SIZE)
    zero = dtype.type((1 << (bits - 1)) - 1)
    scale = np.abs(values).max(axis=2) / zero
    # An all-zero group has scale 0; any code reproduces it, and `zero` is the code of zero.
    divisor = np.where(scale > 0, scale, dtype.type(1))[:, :, None]
    codes = np.clip(np.rint(values / divisor + zero), 0, 2 * zero).astype(np.uint32)
    codes = codes.reshape(n, -1)
    codes[:, k:] = 0
    per_word = 32 // bits
    shifts = np.arange(per_word, dtype=np.uint32) * np.uint32(bits)
    words = codes.reshape(n, -1, per_word) << shifts
    packed = np.bitwise_or.reduce(words, axis=2).astype(np.uint32)
    return packed, scale.astype(dtype)


def dequantize_group(q_weight: npt.NDArray[np.uint32], q_scale: Array, *, bits: int = 4) -> Array:
    """Expand what `quantize_group` returned: ``(code - zero) * scale`` in q_scale's dtype.

    Args:
        q_weight: (N, G * bits) uint32.
        q_scale: (N, G) floating.
        bits: The bits of a code, 4 or 8.

    Returns:
        (N, 32 G) of q_scale's dtype.

    Raises:
        ValueError: if the two shapes do not belong together.
    """
    if (
        q_weight.ndim != 2
        or q_weight.dtype != np.uint32
        or q_scale.shape != (q_weight.shape[0], q_weight.shape[1] // bits)
    ):
        raise ValueError(
            f"q_weight {q_weight.dtype}{q_weight.shape} and q_scale {q_scale.shape} do not match: "
            f"expected uint32 (N, {bits} G) and (N, G)"
        )
    n = q_weight.shape[0]
    shifts = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
    codes = (q_weight[:, :, None] >> shifts) & np.uint32((1 << bits) - 1)
    zero = q_scale.dtype.type((1 << (bits - 1)) - 1)
    groups = codes.reshape(n, -1, GROUP_SIZE).astype(q_scale.dtype) - zero
    result: Array = (groups * q_scale[:, :, None]).reshape(n, -1)
    return result


def quantize_params(params: Mapping[str, Array], quantization: Quantization) -> dict[str, Array]:
    """MLC's parameters in another quantization.

    Args:
        params: name → floats under MLC's names, ``X.weight`` and ``X.bias``.
        quantization: ``q0…`` keep every parameter in the model's dtype. Others turn every matrix
            (embedding and lm_head included) into ``X.q_weight`` uint32 and ``X.q_scale``; with
            ``q4f16_0`` both lie inputs first (KN), but for the embedding's. Norms and biases stay.

    Raises:
        ValueError: for an unknown quantization.
    """
    if quantization not in MODEL_DTYPE:
        raise ValueError(f"quantization {quantization!r} is unknown; use {sorted(MODEL_DTYPE)}")
    dtype, bits = MODEL_DTYPE[quantization], CODE_BITS.get(quantization)
    result: dict[str, Array] = {}
    for name, weight in params.items():
        if bits is None or weight.ndim != 2:
            result[name] = np.ascontiguousarray(weight, dtype=dtype)
            continue
        stem = name.removesuffix(".weight")
        q_weight, q_scale = quantize_group(weight, scale_dtype=dtype, bits=bits)
        if _transposed(name, quantization):
            q_weight, q_scale = q_weight.T.copy(), q_scale.T.copy()
        result[f"{stem}.q_weight"], result[f"{stem}.q_scale"] = q_weight, q_scale
    return result


def _transposed(name: str, quantization: Quantization) -> bool:
    return quantization == "q4f16_0" and not name.endswith("embed_tokens.weight")


def dequantized(params: Mapping[str, Array], quantization: Quantization) -> dict[str, Array]:
    """What `quantize_params` keeps of its params, in float32 and under the same names.

    Codes and scales are multiplied in float32.
    """
    result: dict[str, Array] = {}
    for name, weight in params.items():
        stored = quantize_params({name: weight}, quantization)
        if name in stored:
            result[name] = stored[name].astype(np.float32)
            continue
        q_weight, q_scale = (np.asarray(v) for v in stored.values())
        if _transposed(name, quantization):
            q_weight, q_scale = q_weight.T, q_scale.T
        expanded = dequantize_group(
            q_weight, q_scale.astype(np.float32), bits=CODE_BITS[quantization]
        )
        result[name] = expanded[:, : weight.shape[1]]
    return result
