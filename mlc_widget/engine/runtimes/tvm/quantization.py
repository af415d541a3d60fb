"""The quantizations that the kernels support, by MLC's names.

To add one, add its line to `QUANTIZATIONS`. Another size of codes also needs kernels
(`kernels.matmul.make_matmul_codes`, `kernels.embedding.make_embedding_codes`, those of the same
names for GPUs, and `cuda.fragments`); another arrangement in the model folder needs a
`layouts.Layout`. Then teach `tools/mlc_format` to write it, and make golden logits with
`tools/golden.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mlc_widget.api.errors import UnsupportedModelError


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a model's matrices are stored.

    Attributes:
        name: MLC's name.
        bits: The size of a weight: 4 or 8 for unsigned codes c, in groups of 32 inputs with a scale
            s, of value (c - zero) · s; 16 or 32 for floats.
        dtype: The dtype of scales and of weights that are not quantized, on disk and in memory.
        transposed: Whether inputs come first in the folder's linear layers (MLC's KN layout); in
            embeddings they never do.
    """

    name: str
    bits: int
    dtype: str
    transposed: bool = False

    @property
    def coded(self) -> bool:
        """Whether weights are codes with scales."""
        return self.bits < 16


QUANTIZATIONS = {
    q.name: q
    for q in (
        Quantization("q0f16", 16, "float16"),
        Quantization("q0f32", 32, "float32"),
        Quantization("q4f16_0", 4, "float16", transposed=True),
        Quantization("q4f16_1", 4, "float16"),
        Quantization("q4f32_1", 4, "float32"),
        Quantization("q8f16_1", 8, "float16"),
    )
}
GGML: Final = Quantization("ggml", 8, "float16")
"""Each tensor has its own type, which its file gives (`WeightSource.tensor_types`)."""


def zero_code(bits: int) -> int:
    """The code of weight 0: 7 for 4 bits, 127 for 8."""
    return int((1 << (bits - 1)) - 1)


def quantization_of(name: object) -> Quantization:
    """The quantization of that name.

    Raises:
        UnsupportedModelError: It is not supported.
    """
    if isinstance(name, str) and name in QUANTIZATIONS:
        return QUANTIZATIONS[name]
    if name == GGML.name:
        return GGML
    raise UnsupportedModelError(
        f"The tvm runtime does not support the quantization {name!r}; it supports "
        f"{', '.join(QUANTIZATIONS)}. Choose a model in one of these.",
        param="quantization",
    )
