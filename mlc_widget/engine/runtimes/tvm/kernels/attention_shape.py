"""How attention of several rows is cut into strips, and how much of it registers hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.kernels.isa import LOG2E, Isa, splat
from mlc_widget.engine.runtimes.tvm.kernels.scaling import capped
from mlc_widget.engine.runtimes.tvm.layouts import PAGE

STRIP: Final = 6
"""The number of pairs of a row and a head that are summed concurrently, in two halves."""
HALF: Final = STRIP // 2

BLOCK: Final = 4
"""The number of pages that are processed together."""
KEYS: Final = BLOCK * PAGE
"""The number of keys of a block."""


@dataclass(frozen=True, slots=True)
class TileShape:
    """The parameters of the kernels of both passes.

    Attributes:
        query_heads: The number of query heads.
        kv_heads: The number of key and value heads.
        head_dim: The dimension of a head.
        isa: The CPU's features.
        dtype: The dtype of keys and values in the pages.
        window: The number of keys that a row sees at most; None for all before it.
        factor: The factor of the scores; None for ``head_dim ** -0.5``.
        cap: The soft cap of the scores, if there is one.
    """

    query_heads: int
    kv_heads: int
    head_dim: int
    isa: Isa
    dtype: str
    window: int | None
    factor: float | None = None
    cap: float | None = None

    @property
    def group(self) -> int:
        """The number of query heads that read one key and value head."""
        return self.query_heads // self.kv_heads

    @property
    def pairs(self) -> int:
        """The number of pairs of a row and a head in a tile, rounded up to whole strips."""
        return -(-self.isa.attention_rows(self.group) * self.group // STRIP) * STRIP

    @property
    def scale(self) -> float:
        """The factor of products of queries and keys that makes them exponents of two."""
        return float((self.factor or self.head_dim**-0.5) * LOG2E)

    def score(self, product: Any) -> Any:
        """The scores of 16 products of queries and keys, as exponents of two."""
        scaled = product * splat(self.scale)
        return scaled if self.cap is None else capped(scaled, self.cap * LOG2E, self.isa)

    @property
    def key_vectors(self) -> int:
        """The number of vectors of 16 keys that a strip sums at once; a divisor of `BLOCK`."""
        return _largest_divisor(BLOCK, self._sums)

    @property
    def value_vectors(self) -> int:
        """The number of vectors of 16 dimensions of values that a strip sums at once."""
        return _largest_divisor(self.head_dim // 16, self._sums)

    @property
    def key_turns(self) -> int:
        """How often a strip goes over a block's keys; each pass prefetches a page or two."""
        return BLOCK // self.key_vectors

    @property
    def value_turns(self) -> int:
        """How often a strip goes over a block's values; each pass prefetches a page or two."""
        return self.head_dim // 16 // self.value_vectors

    @property
    def _sums(self) -> int:
        return max(1, self.isa.sums // STRIP)


def _largest_divisor(of: int, most: int) -> int:
    return max(k for k in range(1, of + 1) if of % k == 0 and k <= most)


def next_page(PT: Any, seq: Any, p: Any, pages: Any, turn: Any) -> Any:
    """The page of the next block, after that of page p, to prefetch in pass `turn`."""
    return PT[seq, T.min(p + BLOCK + turn % BLOCK, pages - 1)]
