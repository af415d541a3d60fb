"""Quantises floats as MLC's group quantization does, using only numpy.

A group is 32 neighbouring inputs of a row. Its weights become codes c with one scale s; a code
stands for ``(c - zero) · s``, where zero is 7 with 4 bits and 127 with 8. mlc_llm derives the scale
from the largest weight. Here several scales are tried for 4-bit codes, and the one with the least
squared error is used. Errors count by the importance of their input. Where that is not known, those
of large weights count more, by (mean square + square)^¾, since a plain search clips large weights,
which costs more than it gains. Measured on SmolLM2-135M, as KL divergence from float: 0.48 for
mlc_llm's scale, 0.36 for a scale of -largest / 8, 0.35 for the search without importance, and 0.20
for the search with importance. The codes use all 16 values, mlc_llm's only 15: the weight of the
largest magnitude lies on the side that has one more code, so the scale can be negative. All readers
of the format support negative scales and all codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

GROUP: Final = 32
_BLOCK: Final = 1 << 15
"""The number of weights processed at a time, so that they stay in the CPU's caches."""
_LARGEST_CODES: Final = (8.0, 7.0, 7.4, 7.7, 8.3, 8.6, 9.0, 9.5)
"""The values tried for a group's largest weight, divided by the scale, before rounding."""
_REFINEMENTS: Final = 2


@dataclass(frozen=True, slots=True)
class Format:
    """How a quantization stores a model.

    Attributes:
        name: MLC's name.
        bits: The bits of a matrix's weight: 4 or 8 for codes, 16 or 32 for floats.
        dtype: The type of scales, and of parameters that are not quantised.
    """

    name: str
    bits: int
    dtype: str

    @property
    def coded(self) -> bool:
        """Whether matrices are stored as codes with scales."""
        return self.bits < 16

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """The size of a parameter in bytes."""
        size = np.dtype(self.dtype).itemsize
        if len(shape) < 2 or not self.coded:
            return int(np.prod(shape, dtype=object)) * size
        groups = -(-shape[1] // GROUP)
        return shape[0] * groups * (GROUP * self.bits // 8 + size)


FORMATS: Final = {
    f.name: f
    for f in (
        Format("q4f16_1", 4, "float16"),
        Format("q8f16_1", 8, "float16"),
        Format("q0f16", 16, "float16"),
        Format("q0f32", 32, "float32"),
    )
}


class NotRepresentableError(ValueError):
    """A weight is not finite, or too large for the quantization; the text says which."""


def quantize(
    rows: Array, bits: int, dtype: npt.DTypeLike = np.float16, importance: Array | None = None
) -> tuple[npt.NDArray[np.uint32], Array]:
    """Quantise rows of a matrix to codes and scales.

    Args:
        rows: (N, K) floats.
        bits: The bits of a code, 4 or 8.
        dtype: The type of the scales.
        importance: (K,) factors of each input's squared error; None if they are not known.

    Returns:
        (N, G · bits) uint32 with 32 / bits codes in each word, the first in its lowest bits; and
        (N, G) scales, for G groups in a row. If K is not a multiple of 32, zeros are appended.

    Raises:
        NotRepresentableError: A weight is NaN, infinite, or too large for a scale of this dtype.
    """
    count, inputs = rows.shape
    groups = -(-inputs // GROUP)
    values = np.zeros((count, groups * GROUP), np.float32)
    values[:, :inputs] = rows
    check_finite(values)
    weights = None
    if importance is not None:
        weights = np.zeros(groups * GROUP, np.float32)
        weights[:inputs] = importance
    zero = (1 << (bits - 1)) - 1
    largest = float(np.abs(values).max(initial=0.0))
    if largest > zero * float(np.finfo(dtype).max):
        raise NotRepresentableError(
            f"a weight of {largest:.3g} is too large for a scale in {np.dtype(dtype).name}"
        )
    scales = np.empty((count, groups), dtype)
    codes = np.empty((count, groups * GROUP), np.uint8)
    for start, stop in _blocks(count, groups * GROUP):
        part = values[start:stop].reshape(-1, GROUP)
        least = -zero
        most = zero + 1 if bits == 4 else zero
        if bits == 4:
            if weights is None:
                of_part = np.sqrt(np.square(part).mean(axis=1, keepdims=True) + np.square(part))
                of_part *= np.sqrt(of_part)
            else:
                of_part = np.tile(weights.reshape(-1, GROUP), (stop - start, 1))
            found = _searched(part, least, most, of_part)
        else:
            found = np.abs(part).max(axis=1) / np.float32(zero)
        stored = found.astype(dtype)
        scales[start:stop] = stored.reshape(stop - start, groups)
        steps = _rounded(part, _inverse(stored.astype(np.float32)), least, most)
        codes[start:stop] = (steps + zero).astype(np.uint8).reshape(stop - start, -1)
    if bits == 4:
        codes = codes[:, 0::2] | (codes[:, 1::2] << 4)
    words: Array = np.ascontiguousarray(codes).view(np.uint32)
    return words, scales


def check_finite(values: Array) -> None:
    """Check that all values are finite.

    Raises:
        NotRepresentableError: A value is NaN or infinite.
    """
    # The sum of finite float32 numbers may be infinite; their largest and least are not.
    if values.size and not (np.isfinite(values.max()) and np.isfinite(values.min())):
        what = "NaN" if np.isnan(values).any() else "infinite"
        raise NotRepresentableError(f"a weight is {what}")


def _blocks(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    step = max(1, _BLOCK // max(1, columns))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def _inverse(scales: Array) -> Array:
    """1 / s, and 0 for 0."""
    inverse = np.zeros_like(scales)
    np.divide(np.float32(1), scales, out=inverse, where=np.abs(scales) > np.float32(1e-37))
    return inverse


def _rounded(
    values: Array, inverse: Array, least: int, most: int, out: Array | None = None
) -> Array:
    steps: Array = np.multiply(values, inverse[:, None], out=out)
    np.rint(steps, out=steps)
    np.maximum(steps, np.float32(least), out=steps)
    np.minimum(steps, np.float32(most), out=steps)
    return steps


def _searched(values: Array, least: int, most: int, weights: Array) -> Array:
    """For each group, the scale with the least squared error among those tried.

    Args:
        values: (groups, 32) float32.
        least: The smallest code minus zero.
        most: The largest code minus zero.
        weights: (groups, 32) factors of the squared errors.

    For codes q, the best scale is Σ x·q / Σ q², which reduces the squared error by (Σ x·q)² / Σ q².
    """
    at = np.abs(values).argmax(axis=1)
    largest = values[np.arange(len(values)), at]
    weighted = values * weights
    steps, other = np.empty_like(values), np.empty_like(values)
    best = np.zeros(len(values), np.float32)
    gained = np.full(len(values), -1, np.float32)

    def attempt(inverse: Array) -> Array:
        _rounded(values, inverse, least, most, steps)
        product: Array = np.einsum("gk,gk->g", weighted, steps)
        np.multiply(steps, weights, out=other)
        square: Array = np.einsum("gk,gk->g", other, steps)
        scale: Array = np.zeros_like(product)
        np.divide(product, square, out=scale, where=square > 0)
        gain = product * scale
        better = gain > gained
        np.copyto(gained, gain, where=better)
        np.copyto(best, scale, where=better)
        return scale

    inverse = _inverse(largest)
    for code in _LARGEST_CODES:
        attempt(inverse * np.float32(code))
    for _ in range(_REFINEMENTS):
        attempt(_inverse(best))
    return best
