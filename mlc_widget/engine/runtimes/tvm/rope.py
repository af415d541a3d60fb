"""Tables of rotary embeddings, computed as in transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlc_widget.api.errors import UnsupportedModelError
from mlc_widget.engine.store.fields import Fields

_LEAST, _MOST = 1e-6, 1e9

Table = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rope:
    """A rotary embedding.

    Attributes:
        theta: The base of its frequencies.
        head_dim: The dimension of a head; all dimensions are rotated.
        scaling: MLC's `rope_scaling`, of type default, linear or llama3; or of type factors, with
            a divisor for each frequency, as in GGUF files.
    """

    theta: float
    head_dim: int
    scaling: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self._kind() not in {"default", "linear", "llama3", "factors"}:
            raise UnsupportedModelError(
                f"The tvm runtime does not support rope_scaling of type {self._kind()!r}; it "
                "supports default, linear and llama3.",
                param="model_config.rope_scaling",
            )
        self.frequencies()

    def frequencies(self) -> Table:
        """The frequencies in radians per position, (head_dim / 2,) float32."""
        exponent = np.arange(0, self.head_dim, 2, dtype=np.float32) / np.float32(self.head_dim)
        frequency = np.float32(1) / np.float32(self.theta) ** exponent
        if self._kind() == "linear":
            return (frequency / np.float32(self._number("factor"))).astype(np.float32)
        if self._kind() == "llama3":
            return self._llama3(frequency)
        if self._kind() == "factors":
            return (frequency / self._factors()).astype(np.float32)
        return frequency

    def table(self, positions: int) -> tuple[Table, Table]:
        """The cosines and the sines, each (positions, head_dim / 2) float32."""
        angle = np.arange(positions, dtype=np.float32)[:, None] * self.frequencies()
        return np.cos(angle), np.sin(angle)

    def _llama3(self, frequency: Table) -> Table:
        """Llama 3.1's scaling: stretch long waves by `factor`, keep short ones, blend between."""
        low, high = self._number("low_freq_factor"), self._number("high_freq_factor")
        if not low < high:
            raise self._fields().wrong(
                "high_freq_factor", f"must be greater than low_freq_factor, {low:g}"
            )
        factor = np.float32(self._number("factor"))
        context = self._number("original_max_position_embeddings")
        wave = np.float32(2 * math.pi) / frequency
        smooth = (np.float32(context) / wave - np.float32(low)) / np.float32(high - low)
        ramp = (np.float32(1) - smooth) * (frequency / factor) + smooth * frequency
        scaled = np.where(wave > context / low, frequency / factor, ramp)
        return np.where(wave < context / high, frequency, scaled).astype(np.float32)

    def _factors(self) -> Table:
        factors = self._fields().positive_floats("factors", self.head_dim // 2)
        return np.asarray(factors, np.float32)

    def _kind(self) -> str:
        fields = self._fields()
        return str(fields.get("rope_type", "") or fields.get("type", "") or "default")

    def _number(self, key: str) -> float:
        return self._fields().positive_float(key, least=_LEAST, most=_MOST)

    def _fields(self) -> Fields:
        return Fields(self.scaling or {}, "model_config.rope_scaling")
