"""The quantizations that the kernels run, by MLC's names."""

from __future__ import annotations

from dataclasses import dataclass

from mlc_widget.api.errors import UnsupportedModelError


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a model's matrices are stored.

    Attributes:
        name: MLC's name.
        bits: Of a weight: 4 (groups of 32 inputs with a scale, MLC's NK layout) or 32.
        dtype: Of scales and of what is not quantised, as MLC stores it.
    """

    name: str
    bits: int
    dtype: str


QUANTIZATIONS = {
    q.name: q for q in (Quantization("q0f32", 32, "float32"), Quantization("q4f32_1", 4, "float32"))
}


def quantization_of(name: object) -> Quantization:
    """The quantization of that name.

    Raises:
        UnsupportedModelError: It is none that we run.
    """
    if isinstance(name, str) and name in QUANTIZATIONS:
        return QUANTIZATIONS[name]
    raise UnsupportedModelError(
        f"The tvm runtime does not run quantization {name!r}; it runs "
        f"{', '.join(QUANTIZATIONS)}. Choose a model in one of these.",
        param="quantization",
    )
