# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Linear layers on Hopper's tensor cores for 9 to 32 rows, by products of warpgroups.

As for fewer rows, such a layer takes as long as reading its weights does; but all rows of x do not
fit into a multiprocessor's shared memory. So a block makes many outputs of all rows at once, for
which it reads x only once: 16 warps, which are 4 warpgroups, make 16 rows of W each, and 4 more
bring x into shared memory. Weights are copied there ahead of use, as by `tensor_matmul_streams`.

Where there are too few outputs to keep all multiprocessors busy, warpgroups make slices of the same
outputs, and so do the blocks of a cluster: each sends the slices' sums to the block that adds up
those of some rows of x. The CUDA source is in ``wide.cuh``.

The tensor cores of a Hopper GPU sum in the same way for `wgmma` as for `mma`, and slices are added
up ascending, so that a row gets the same bits as from `tensor_matmul_few`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import WARP, source_of
from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_shape import (
    SLICES,
    MatmulShape,
    make_write,
)
from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_warpgroups import wgmma

SOME: Final = 16
MOST: Final = 32
"""The numbers of rows for which there are blocks; others are padded."""
_MAKERS = 16 * WARP
_BRINGERS = 4 * WARP  # threads
_MEMORY = 226 << 10
_HEAD = 2048  # bytes of shared memory for mbarriers, and to align what follows
_LINE = 128  # bytes of a row of x in a step
_CHUNK = 4608
"""Bytes of weights that a warp waits for at a time."""


def serves(shape: MatmulShape) -> bool:
    """Whether a layer can be computed in this way: its slices must be equal."""
    return shape.steps == SLICES * shape.per_slice


@dataclass(frozen=True, slots=True)
class Wide:
    """How a layer is computed; see ``Wide`` in ``wide.cuh``.

    Attributes:
        shape: The layer.
        rows: The maximum number of rows of x, `SOME` or `MOST`.
    """

    shape: MatmulShape
    rows: int

    @property
    def across(self) -> int:
        """Warpgroups side by side, each of which makes 64 rows of W."""
        return self._division[0]

    @property
    def cluster(self) -> int:
        """Blocks that make slices of the same outputs."""
        return self._division[1]

    @property
    def _division(self) -> tuple[int, int]:
        """`across` and `cluster`: a division whose blocks all run at once, as far as there is one.

        The more outputs, the more of them a block makes, and the fewer blocks share their slices.
        """
        outputs, all_at_once = self.shape.N, self.shape.multiprocessors
        at_once = all_at_once * 10 // 11  # blocks in clusters of 4
        if -(-outputs // 128) * 4 <= at_once:
            return 2, 4
        if -(-outputs // 64) * 2 <= all_at_once:
            return 1, 2
        if -(-outputs // 256) * 4 <= at_once:
            return 4, 4
        return 4, 1

    @property
    def groups(self) -> int:
        """Groups of `across` warpgroups, each of which makes other slices."""
        return 4 // self.across

    @property
    def sent(self) -> bool:
        """Whether slices are sent to where they are added up."""
        return self.cluster * self.groups > 1

    @property
    def width(self) -> int:
        """Rows of W of a block."""
        return 64 * self.across

    @property
    def own_rows(self) -> int:
        """Rows of x whose slices a block adds up."""
        return self.rows // self.cluster

    @property
    def blocks(self) -> int:
        """Blocks."""
        return -(-self.shape.N // self.width) * self.cluster

    @property
    def steps(self) -> int:
        """Steps of a group."""
        return self.shape.steps // self.cluster // self.groups

    @property
    def _step(self) -> int:
        """Bytes of a step of a warp's weights."""
        return self.shape.bits * 128 + (64 if self.shape.coded else 0)

    @property
    def _x(self) -> int:
        """Bytes of a step of x of all groups."""
        return self.groups * self.rows * _LINE

    @property
    def _received(self) -> int:
        """Bytes of slices that are sent to a block."""
        return SLICES * self.width * self.own_rows * 4 if self.sent else 0

    @property
    def _room(self) -> int:
        """Bytes of shared memory for x and weights."""
        return _MEMORY - _HEAD - self._received

    @property
    def chunk(self) -> int:
        """Steps that are waited for at a time: a divisor of a slice's, of which three fit."""
        per_slice = self.shape.per_slice
        each = 16 * self._step + self._x
        fits = [c for c in range(1, 9) if per_slice % c == 0 and c * self._step <= _CHUNK]
        return max((c for c in fits if 3 * c * each <= self._room), default=1)

    @property
    def stages(self) -> int:
        """Chunks of x in shared memory or on their way there."""
        room = min(self._room * 3 // 5, self._room - 2 * 16 * self.chunk * self._step)
        most = min(room // (self.chunk * self._x), 24 // self.chunk, self.steps // self.chunk)
        return max(2, most)

    @property
    def depth(self) -> int:
        """Chunks of a warp's weights in shared memory or on their way there."""
        left = self._room - self.stages * self.chunk * self._x
        return max(1, min(left // (16 * self.chunk * self._step), self.steps // self.chunk))

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return _MAKERS + _BRINGERS

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        x = self.stages * self.chunk * self._x
        return _HEAD + x + 16 * self.depth * self.chunk * self._step + self._received

    @property
    def struct(self) -> str:
        """The struct in the CUDA source."""
        early = self.blocks <= self.shape.multiprocessors
        numbers = (
            self.shape.K, self.shape.bits, self.rows, self.across, self.cluster, self.stages,
            self.chunk, self.depth, int(self.shape.gated), int(early), self.shared_bytes,
        )  # fmt: skip
        return f"wide::Wide<{', '.join(map(str, numbers))}>"


_SOURCE = source_of("wide.cuh", "wide", *map(wgmma, (SOME, MOST)))


def make_wide(wide: Wide) -> Any:
    """``multiply(X, W, S, B, RES, Y, M, bx, tx)`` for up to `wide.rows` rows."""
    shape, BYTES, STRUCT = wide.shape, wide.shared_bytes, wide.struct
    ACROSS, CLUSTER, N = wide.across, wide.cluster, shape.N
    SENT, MINE, TILES = wide.sent, wide.own_rows, shape.tiles
    OUTPUTS = wide.width * MINE // TILES  # of a block that adds up slices
    OWN = -(-OUTPUTS // _MAKERS) if SENT else wide.rows // 2 // TILES
    OUT = wide.width // TILES  # of a row of x
    write = make_write(shape)

    def output_tile(block: Any, warp: Any) -> Any:
        """The 16 outputs of a warp; with gates, two warps have gates and two their ups."""
        group = block * ACROSS + warp // 4 % ACROSS
        return group * 2 + warp % 2 if shape.gated else group * 4 + warp % 4

    def tile_of_w(output: Any, warp: Any) -> Any:
        if shape.gated:
            return T.min(output, N // 32 - 1) + warp % 4 // 2 * (N // 32)
        return T.min(output, N // 16 - 1)

    def first_sum(warp: Any) -> Any:
        """Where the thread's outputs are among the sums of its rows of W."""
        return warp % 4 // 2 * OWN if shape.gated else 0

    def scales(W: Any, S: Any) -> Any:
        return T.address_of(S[0, 0, 0, 0]) if shape.coded else T.address_of(W[0, 0, 0, 0, 0])

    @T.inline
    def write_sums(B, RES, Y, M, total, block, warp, lane):
        """Write what the thread has of the 16 rows of W of its warp."""
        for i in T.unroll(OWN):
            at: T.let = first_sum(warp) + i
            m: T.let = at // 4 * 8 + lane % 4 * 2 + at % 2
            n: T.let = output_tile(block, warp) * 16 + lane // 4 + at % 4 // 2 * 8
            write(Y, B, RES, M, total, i, OWN, m, n)

    @T.inline
    def write_added(B, RES, Y, M, total, block, rank, tx):
        """Write what the thread has added up."""
        for i in T.unroll(OWN):
            at: T.let = i * _MAKERS + tx
            if at < OUTPUTS:
                write(
                    Y, B, RES, M, total, i, OWN, rank * MINE + at % MINE, block * OUT + at // MINE
                )

    @T.inline
    def multiply(X, W, S, B, RES, Y, M, bx, tx):
        with T.sblock("wide"):
            T.reads()
            T.writes()
            total = T.sblock_alloc_buffer((OWN * TILES,), "float32", scope="local")
            shared = T.sblock_alloc_buffer((BYTES,), "uint8", scope="shared.dyn")
            warp: T.let = tx // WARP
            block: T.let = bx // CLUSTER
            T.evaluate(
                T.cuda.func_call(
                    f"wide::products<{STRUCT}>",
                    T.address_of(total[0]),
                    T.address_of(X[0, 0]),
                    T.address_of(W[0, 0, 0, 0, 0]),
                    scales(W, S),
                    T.address_of(shared[0]),
                    T.address_of(shared[BYTES - 1]),
                    T.Cast("int32", M),
                    T.Cast("int32", tile_of_w(output_tile(block, warp), warp)),
                    source_code=_SOURCE,
                )
            )
            if tx < _MAKERS:
                if SENT:
                    write_added(B, RES, Y, T.Cast("int32", M), total, block, bx % CLUSTER, tx)
                else:
                    write_sums(B, RES, Y, T.Cast("int32", M), total, block, warp, tx % WARP)

    return multiply
