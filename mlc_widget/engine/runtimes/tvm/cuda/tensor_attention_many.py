# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Attention of many rows on Hopper: each block has the queries of two tiles of `tensor_attention`.

So each key and value that a warp reads serves twice as many queries, for attention in prefill is
limited by how fast the L2 cache gives them out. Sums are in the order that
`tensor_attention.make_tile` documents, so that a row gets the same bits from both kernels. The CUDA
source is in ``attention.cuh``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import fetch_int, namespaced
from mlc_widget.engine.runtimes.tvm.cuda.parts import rows_of
from mlc_widget.engine.runtimes.tvm.cuda.tensor_attention import (
    PAGES_OF_A_WARP,
    blocks_of,
    make_tile,
    threads_of,
    warps_of,
)
from mlc_widget.engine.runtimes.tvm.kernels.isa import LOG2E, pad
from mlc_widget.engine.runtimes.tvm.layouts import PAGE

TILES: Final = 2
"""Tiles of a block."""
# Heads of at most 64 dimensions have twice as many warps, whose registers hold one tile; of more
# than 128, no thread's registers can hold two.
_DIMS = range(65, 129)
_SOURCE = namespaced("attention.cuh", "attention")


def serves(D: int) -> bool:
    """Whether there are such blocks for heads of this dimension."""
    return D in _DIMS


def most_rows(group: int, D: int) -> int:
    """The number of rows that share a block in steps of many rows."""
    return rows_of(group) * (TILES if serves(D) else 1)


@dataclass(frozen=True, slots=True)
class Many:
    """The blocks; see ``Many`` in ``attention.cuh``.

    Attributes:
        HQ: Query heads.
        HKV: Key heads.
        D: The dimension of a head.
        window: The number of keys that a row sees, if that is limited.
        cap: The soft cap of the scores, if there is one.
    """

    HQ: int
    HKV: int
    D: int
    window: int | None
    cap: float | None

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        warps, dims = warps_of(self.D), self.D // 4
        room = TILES * warps * (2 * dims + 4) * 32
        joined = TILES * (2 * -(-dims // warps) + 4) * threads_of(self.D)
        return 4 * (room + joined + TILES * (self.D // 16) * 32 * 4 + TILES * 16)

    @property
    def struct(self) -> str:
        """The struct in the CUDA source."""
        numbers = (
            self.HQ, self.HKV, self.D, self.window or 0, str(self.cap is not None).lower(), TILES,
            warps_of(self.D), PAGES_OF_A_WARP, self.shared_bytes,
        )  # fmt: skip
        return f"attention::Many<{', '.join(map(str, numbers))}>"

    def attend(
        self, Q: Any, KP: Any, VP: Any, POS: Any, PT: Any, Y: Any, shared: Any, layer: Any,
        first: Any, count: Any, sequence: Any, by: Any,
    ) -> Any:  # fmt: skip
        """Attend with the queries of some rows."""
        head = by // (blocks_of(self.HQ, self.HKV) // self.HKV)
        numbers = (self.HQ, self.HKV, self.D, self.window or 0)
        limit = 1.0 if self.cap is None else self.cap * LOG2E
        return T.cuda.func_call(
            f"attention::attend<{self.struct}, {', '.join(map(str, numbers))}>",
            T.address_of(Q[0, 0]),
            T.address_of(KP[0, layer, head, 0, 0]),
            T.address_of(VP[0, layer, head, 0, 0]),
            T.address_of(POS[0]),
            T.address_of(PT[sequence, 0]),
            T.address_of(Y[0, 0]),
            T.address_of(shared[0]),
            T.address_of(shared[self.shared_bytes - 1]),
            first,
            count,
            T.Cast("int32", by),
            T.Cast("int32", PT.shape[1]),
            KP.shape[1] * (self.HKV * self.D * PAGE),
            T.int32(pad(self.HQ * self.D)),
            T.float32(2 * LOG2E / limit),
            T.float32(limit),
            source_code=_SOURCE,
        )


def make_tiles(HQ: int, HKV: int, D: int, window: int | None, cap: float | None) -> Any:
    """``tiles_of(Q, KP, VP, POS, PT, TILE, ENDED, Y, PARTIAL, layer, bt, by, tx)``.

    Like `tensor_attention.make_tile`, for whole tiles of up to `most_rows`. One that has a part of
    the keys has one row, as there.
    """
    many, part_of = Many(HQ, HKV, D, window, cap), make_tile(HQ, HKV, D, window, cap)
    BYTES = many.shared_bytes

    @T.inline
    def tiles_of(Q, KP, VP, POS, PT, TILE, ENDED, Y, PARTIAL, layer, bt, by, tx):
        first: T.let = fetch_int(T.address_of(TILE[bt, 0]))
        count: T.let = fetch_int(T.address_of(TILE[bt, 1]))
        sequence: T.let = fetch_int(T.address_of(TILE[bt, 2]))
        if count > 0:
            with T.sblock("many_rows"):
                T.reads()
                T.writes()
                shared = T.sblock_alloc_buffer((BYTES,), "uint8", scope="shared.dyn")
                T.evaluate(
                    many.attend(
                        Q, KP, VP, POS, PT, Y, shared, layer, first, count, sequence, by
                    )
                )  # fmt: skip
        else:
            part_of(Q, KP, VP, POS, PT, TILE, ENDED, Y, PARTIAL, layer, bt, by, tx)

    return tiles_of
