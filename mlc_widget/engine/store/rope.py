"""Tables of rotary embeddings, computed as in transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mlc_widget.api.errors import UnsupportedModelError
from mlc_widget.engine.store.fields import Fields

_LEAST, _MOST = 1e-6, 1e9
_MOST_POSITIONS: Final = 1 << 40

TYPES: Final = ("default", "linear", "llama3", "yarn", "longrope", "factors")
"""The types of `rope_scaling`; ``factors`` (a divisor for each frequency) occurs in GGUF files."""

Table = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rope:
    """A rotary embedding.

    Attributes:
        theta: The base of its frequencies.
        dims: The number of dimensions of a head that are rotated, its first.
        scaling: MLC's `rope_scaling`, of a type in `TYPES`.
    """

    theta: float
    dims: int
    scaling: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self._kind() not in TYPES:
            raise UnsupportedModelError(
                f"The tvm runtime does not support rope_scaling of type {self._kind()!r}; it "
                f"supports {', '.join(TYPES[:-1])} and {TYPES[-1]}.",
                param="model_config.rope_scaling",
            )
        self.table(1)
        self.frequencies(_MOST_POSITIONS)  # both kinds of factors

    def frequencies(self, positions: int = 1) -> Table:
        """The frequencies in radians per position, (dims / 2,) float32.

        Args:
            positions: The number of positions, on which LongRoPE's frequencies depend.
        """
        exponent = np.arange(0, self.dims, 2, dtype=np.float32) / np.float32(self.dims)
        frequency = np.float32(1) / np.float32(self.theta) ** exponent
        match self._kind():
            case "linear":
                return (frequency / np.float32(self._number("factor"))).astype(np.float32)
            case "llama3":
                return self._llama3(frequency)
            case "yarn":
                return self._yarn(frequency)
            case "longrope":
                long = positions > self._number("original_max_position_embeddings")
                return (
                    frequency / self._factors("long_factor" if long else "short_factor")
                ).astype(np.float32)
            case "factors":
                return (frequency / self._factors("factors")).astype(np.float32)
        return frequency

    def magnitude(self) -> float:
        """The factor of cosines and sines, which sharpens attention over long contexts."""
        if self._kind() not in ("yarn", "longrope"):
            return 1.0
        fields = self._fields()
        if fields.get("attention_factor", None) is not None:
            return self._number("attention_factor")
        if self._kind() == "yarn":
            factor = self._number("factor")
            if {"mscale", "mscale_all_dim"} <= (self.scaling or {}).keys():
                scale, all_dims = (self._mscale(factor, k) for k in ("mscale", "mscale_all_dim"))
                return scale / all_dims
            return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
        original = self._number("original_max_position_embeddings")
        factor = fields.positive_float("max_position_embeddings", original) / original
        if factor <= 1 or original <= 1:
            return 1.0
        return math.sqrt(1 + math.log(factor) / math.log(original))

    def table(self, positions: int) -> tuple[Table, Table]:
        """The cosines and the sines, each (positions, dims / 2) float32."""
        angle = np.arange(positions, dtype=np.float32)[:, None] * self.frequencies(positions)
        magnitude = np.float32(self.magnitude())
        return np.cos(angle) * magnitude, np.sin(angle) * magnitude

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

    def _yarn(self, frequency: Table) -> Table:
        """YaRN: divide low frequencies by `factor`, keep high ones, blend between."""
        factor = np.float32(self._number("factor"))
        low, high = (
            self._dimension(self._fields().positive_float(key, default))
            for key, default in (("beta_fast", 32.0), ("beta_slow", 1.0))
        )
        if self._fields().boolean("truncate", default=True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.dims - 1)
        high += 0.001 if low == high else 0
        place = np.arange(self.dims // 2, dtype=np.float32)
        ramp = np.clip((place - np.float32(low)) / np.float32(high - low), 0, 1)
        blended: Table = (frequency / factor * ramp + frequency * (1 - ramp)).astype(np.float32)
        return blended

    def _dimension(self, turns: float) -> float:
        """The dimension that makes this many turns within the original context."""
        original = self._number("original_max_position_embeddings")
        ratio = original / (turns * 2 * math.pi)
        return self.dims * math.log(ratio) / (2 * math.log(max(self.theta, 1 + _LEAST)))

    def _mscale(self, factor: float, key: str) -> float:
        return 0.1 * self._number(key) * math.log(factor) + 1.0 if factor > 1 else 1.0

    def _factors(self, key: str) -> Table:
        return np.asarray(self._fields().positive_floats(key, self.dims // 2), np.float32)

    def _kind(self) -> str:
        fields = self._fields()
        return str(fields.get("rope_type", "") or fields.get("type", "") or "default")

    def _number(self, key: str) -> float:
        return self._fields().positive_float(key, least=_LEAST, most=_MOST)

    def _fields(self) -> Fields:
        return Fields(self.scaling or {}, "model_config.rope_scaling")


def tables(ropes: Sequence[Rope], positions: int) -> tuple[Table, Table]:
    """The cosines and the sines of all rotary embeddings of a model, one after the other.

    Each is (max(1, number of embeddings) · positions, `half_width(ropes)`) float32.
    """
    made = [rope.table(positions) for rope in ropes]
    if not made:
        empty = np.zeros((positions, half_width(ropes)), np.float32)
        return empty, empty
    cosines, sines = zip(*made, strict=True)
    return np.concatenate(cosines), np.concatenate(sines)


def half_width(ropes: Sequence[Rope]) -> int:
    """The number of columns of the tables."""
    return ropes[0].dims // 2 if ropes else 1
