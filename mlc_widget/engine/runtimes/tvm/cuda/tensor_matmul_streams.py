# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Linear layers on Hopper's tensor cores for up to eight rows, as in decode steps.

Such a layer takes as long as reading its weights does. So there is one block for each
multiprocessor, or two (`Streams.each`). Its first 16 warps make one slice each of the block's tiles
of 16 outputs, one after the other; a warp's next weights are on their way into its own part of
shared memory meanwhile, the first of them before the rows are there. The other warps add up the
slices of a tile, ascending, while the next tile is made. The CUDA source is in ``streams.cuh``.

Each slice is computed as in `tensor_matmul_few`, so that a row gets the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import (
    INVERSE_ROOT,
    WARP,
    await_inputs,
    fetch4,
    source_of,
    start_next,
)
from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_shape import SLICES, MatmulShape

ROWS: Final = 8
"""The maximum number of rows: the columns of B in `intrinsics.mma`."""
_MEMORY = 227 << 10
"""Bytes of shared memory that a block may have."""
_KEPT = 1 << 10
"""Bytes beside these that CUDA keeps for each block."""
_BARRIERS = 2048
"""More bytes than mbarriers take there."""
_AHEAD = 144 << 10
"""Bytes of weights of a multiprocessor under way, of which 33 KB arrive in a microsecond."""
_SLOT = 4608
"""Bytes of weights that a warp waits for at a time."""
_NEAR = 80 << 10
"""Bytes of x that are kept in shared memory."""


@dataclass(frozen=True, slots=True)
class Streams:
    """How a layer is computed for few rows.

    Attributes:
        shape: The layer.
        rows: The maximum number of rows of x, 1 or `ROWS`.
    """

    shape: MatmulShape
    rows: int

    @property
    def far(self) -> bool:
        """Whether rows of x are read from the GPU's memory (its L2 cache) for each item.

        They are if they leave too little shared memory for weights.
        """
        tiles = 2 if self.shape.gated else 1
        room = (_MEMORY - _BARRIERS - self._near - self._sums(tiles)) // SLICES
        return self._near > _NEAR or room < 2 * self._step(tiles)

    @property
    def _near(self) -> int:
        """Bytes of x in shared memory, unless it is `far`."""
        line = self.shape.per_slice * 128 + (64 if self.rows > 1 else 0)
        return SLICES * self.rows * line

    def _sums(self, tiles: int) -> int:
        """Bytes of the slices of two items of this many tiles."""
        columns = self.rows + 1 if self.rows > 1 else 1
        return 2 * SLICES * tiles * 16 * columns * 4

    def _step(self, tiles: int) -> int:
        """Bytes of a step of the weights of this many tiles."""
        return tiles * (self.shape.bits * 128 + (64 if self.shape.coded else 0))

    @property
    def tiles(self) -> int:
        """Tiles of an item: of gates and of ups, or two for which x is read once."""
        enough = self.shape.multiprocessors * 9 // 10
        many = self.shape.N // 32 - enough >= 0
        return 2 if self.shape.gated or (self.far and many) else 1

    @property
    def count(self) -> int:
        """Items of all blocks."""
        return self.shape.N // 16 // self.tiles

    @property
    def blocks(self) -> int:
        """Blocks: `each` for each multiprocessor."""
        return min(self.each * self.shape.multiprocessors, self.count)

    @property
    def each(self) -> int:
        """Blocks of a multiprocessor: two for one row of 4-bit weights, if there are enough items.

        Then twice as many warps take codes apart, which for one row takes nearly as long as reading
        them; and a block of the next kernel starts, and has its first weights on their way, when
        one of the two has ended. With too few items, some multiprocessors would have two blocks
        while others have none.
        """
        shape, two = self.shape, 2 * self.shape.multiprocessors
        enough = self.count >= two * 19 // 20 and self._near <= _NEAR // 2
        return 2 if enough and self.rows == 1 and shape.bits == 4 and not shape.beside else 1

    @property
    def outputs(self) -> int:
        """Numbers of a row of y that an item makes."""
        return self.shape.outputs // self.count

    @property
    def chunk(self) -> int:
        """Steps that a warp waits for at a time: a divisor of a slice's."""
        per_slice, most = (
            self.shape.per_slice,
            min(_SLOT, self._room // 2) // self._step(self.tiles),
        )
        if self.far:
            most = min(most, 2)  # for which x is in registers
        return max(c for c in range(1, max(1, most) + 1) if per_slice % c == 0)

    @property
    def depth(self) -> int:
        """Chunks of a warp that are in shared memory or on their way there.

        With `beside`, no more than the block has in all, so that where the kernel before occupies
        some multiprocessors, others have room for two blocks, and none comes late. Otherwise they
        should not have, as then some would have two blocks while others have none.
        """
        room = self._room // (self.chunk * self._step(self.tiles))
        most = max(n for n in (1, 2, 4, 8) if n <= max(1, room))
        if not self.shape.beside:
            return most
        return min(most, -(-self.count // self.blocks) * self.shape.per_slice // self.chunk)

    @property
    def _room(self) -> int:
        """Bytes of shared memory for a warp's weights."""
        memory = (_MEMORY + _KEPT) // self.each - _KEPT
        return min(_AHEAD // self.each, memory - _BARRIERS - self._others) // SLICES

    @property
    def bulk(self) -> bool:
        """Whether a copying engine brings the weights; for small pieces, that takes longer."""
        return not self.shape.coded

    @property
    def adders(self) -> int:
        """Threads that add up slices."""
        return (4 if self.rows > 1 else 1) * WARP

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return SLICES * WARP + self.adders

    @property
    def _others(self) -> int:
        """Bytes of shared memory beside barriers and weights."""
        return (0 if self.far else self._near) + self._sums(self.tiles)

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        barriers = (SLICES * (self.depth + 1) * 8 + 64 + 127) // 128 * 128
        weights = SLICES * self.depth * self.chunk * self._step(self.tiles)
        return barriers + weights + self._others

    @property
    def struct(self) -> str:
        """The struct in the CUDA source."""
        shape = self.shape
        apart, factor = (shape.N // 32, 1) if shape.gated else (1, self.tiles)
        numbers = (
            shape.K, shape.bits, self.tiles, factor, apart, self.count, self.rows, self.blocks,
            self.chunk, self.depth, int(self.bulk), int(self.far), self.shared_bytes,
        )  # fmt: skip
        return f"warp_streams::Streams<{', '.join(map(str, numbers))}>"


_SOURCE = source_of("streams.cuh", "warp_streams", INVERSE_ROOT)


def _call(function: str, *args: Any, returns: str = "") -> Any:
    options = {"return_type": returns} if returns else {}
    return T.cuda.func_call(f"warp_streams::{function}", *args, source_code=_SOURCE, **options)


def make_streams(streams: Streams, norm: tuple[int, float] | None = None) -> Any:
    """``multiply(X, NW, W, S, B, RES, Y, M, bx, tx)`` for up to `streams.rows` rows.

    Args:
        streams: How they are computed.
        norm: For one row in float32 whose RMSNorm is multiplied: its features, and what is added
            to the mean of their squares. NW is its weight, and otherwise ignored.
    """
    shape, BYTES, MAKERS = streams.shape, streams.shared_bytes, SLICES * WARP
    COUNT, BLOCKS, STRUCT = streams.count, streams.blocks, streams.struct
    add = _make_add(streams)

    def both_ends(shared: Any) -> tuple[Any, Any]:
        return T.address_of(shared[0]), T.address_of(shared[BYTES - 1])

    def weights(W: Any, S: Any) -> tuple[Any, Any]:
        w = T.address_of(W[0, 0, 0, 0, 0])
        return w, T.address_of(S[0, 0, 0, 0]) if shape.coded else w

    H, eps = norm or (0, 0.0)

    @T.inline
    def multiply(X, NW, W, S, B, RES, Y, M, bx, tx):
        with T.sblock("streams"):
            T.reads()
            T.writes()
            shared = T.sblock_alloc_buffer((BYTES,), "uint8", scope="shared.dyn")
            T.evaluate(_call(f"begin<{STRUCT}>", *both_ends(shared), *weights(W, S)))
            T.evaluate(start_next())
            if norm is None:
                T.evaluate(await_inputs())
            if tx < MAKERS:
                if norm is None:
                    T.evaluate(
                        _call(
                            f"make<{STRUCT}, {COUNT}, {BLOCKS}>",
                            *both_ends(shared),
                            *weights(W, S),
                            T.address_of(X[0, 0]),
                            T.Cast("int32", M),
                        )
                    )
                else:
                    T.evaluate(
                        _call(
                            f"make_normed<{STRUCT}, {COUNT}, {BLOCKS}, {H}>",
                            *both_ends(shared),
                            *weights(W, S),
                            T.address_of(X[0, 0]),
                            T.address_of(NW[0]),
                            T.float32(eps),
                        )
                    )
            else:
                if norm is not None:
                    T.evaluate(await_inputs())
                add(shared, B, RES, Y, T.Cast("int32", M), bx, tx - MAKERS)

    return multiply


def _make_add(streams: Streams) -> Any:
    shape, STRUCT, OUT, ADDERS = streams.shape, streams.struct, streams.outputs, streams.adders
    EACH = -(-OUT * streams.rows // ADDERS)  # outputs of a thread
    COUNT, BLOCKS, N = streams.count, streams.blocks, shape.outputs
    bias, residual, gated, gate = shape.bias, shape.residual, shape.gated, shape.gate

    @T.inline
    def add(shared, B, RES, Y, rows, bx, thread):
        """Add up the slices of the block's items; then bias, residual and gate."""
        total = T.sblock_alloc_buffer((EACH * 2,), "float32", scope="local")
        added = T.sblock_alloc_buffer((EACH,), "float32", scope="local")
        for i in T.serial((COUNT - bx + (BLOCKS - 1)) // BLOCKS):
            first: T.let = (bx + i * BLOCKS) * OUT
            if residual:  # on its way while the slices are made
                for e in T.unroll(EACH):
                    if (thread + e * ADDERS) // OUT < rows:
                        added[e] = fetch4(
                            T.address_of(
                                RES[
                                    (thread + e * ADDERS) // OUT,
                                    first + (thread + e * ADDERS) % OUT,
                                ]
                            )
                        )
            T.evaluate(_call(f"await_slices<{STRUCT}>", T.address_of(shared[0]), i))
            for e in T.unroll(EACH):
                for t in T.unroll(shape.tiles):
                    total[e * 2 + t] = _call(
                        f"sum<{STRUCT}>",
                        T.address_of(shared[0]),
                        i,
                        t * 16 + (thread + e * ADDERS) % OUT,
                        (thread + e * ADDERS) // OUT,
                        returns="float32",
                    )
            T.evaluate(_call(f"release<{STRUCT}>", T.address_of(shared[0]), i))
            for e in T.unroll(EACH):
                m: T.let = (thread + e * ADDERS) // OUT
                n: T.let = first + (thread + e * ADDERS) % OUT
                if m < rows:
                    if bias:
                        for t in T.unroll(shape.tiles):
                            total[e * 2 + t] = total[e * 2 + t] + B[n + t * N]
                    if residual:
                        total[e * 2] = total[e * 2] + added[e]
                    if gated:
                        Y[m, n] = gate(total[e * 2], total[e * 2 + 1])
                    else:
                        Y[m, n] = total[e * 2]

    return add
