# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Linear layers on Hopper's tensor cores for many rows, by products of whole warpgroups.

A warpgroup, 4 warps, multiplies 64 rows of W with up to 128 rows of x (`wgmma`). It takes its part
of W from registers, as codes become float16 there, and x from shared memory, where a copying engine
puts it while earlier steps are multiplied. For that engine, `arrange` first lays out x anew. In
blocks of many rows, a warpgroup of its own tells that engine what to copy, so that those that
multiply never wait for one another; it gives most of its registers to them.

The tensor cores of a Hopper GPU sum in the same way for `wgmma` as for `mma`, so that a row gets
the same bits as from `tensor_matmul_few`. The CUDA source is in ``warpgroups.cuh``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.fragments import STEP
from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import (
    WARP,
    await_inputs,
    source_of,
    start_next,
)
from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_shape import (
    SLICES,
    MatmulShape,
    make_write,
)

PADDED: Final = 128
"""Rows of x are padded to a multiple of this."""
_LINE = 128  # bytes of a row of x in a step
_HEAD = 2048  # bytes of shared memory before the rows of x
_PLACES = 8  # of 16 bytes in a line


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a layer is divided into blocks; see ``Block`` in ``warpgroups.cuh``.

    Attributes:
        rows: Rows of x of a block: 64 or 128.
        across: Warpgroups side by side, each of which makes 64 rows of W.
        groups: Groups of these, each of which makes other slices; 1 unless slices are equal.
        stages: Steps of x that a group has in shared memory.
    """

    rows: int
    across: int
    groups: int
    stages: int

    @property
    def makers(self) -> int:
        """Threads that make products."""
        return self.groups * self.across * 4 * WARP

    @property
    def brings(self) -> bool:
        """Whether a block has one more warpgroup, which brings x."""
        return self.groups == 1

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.makers + (4 * WARP if self.brings else 0)

    @property
    def sums(self) -> int:
        """Sums that a thread finishes."""
        return self.rows // 2 // self.groups

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        exchanged = self.makers * self.rows // 2 * 4 if self.groups > 1 else 0
        return _HEAD + self.groups * self.stages * self.rows * _LINE + exchanged

    def count(self, shape: MatmulShape) -> int:
        """Blocks side by side, for all rows of W."""
        return -(-shape.N // (64 * self.across))


SOME_ROWS: Final = Blocks(rows=64, across=1, groups=4, stages=4)
MANY_ROWS: Final = Blocks(rows=128, across=2, groups=1, stages=6)


def most_rows(shape: MatmulShape) -> int:
    """The maximum number of rows for `SOME_ROWS`; 0 where these cannot serve.

    Beyond, there are enough blocks of `MANY_ROWS`.
    """
    if shape.steps != SLICES * shape.per_slice:
        return 0
    enough = shape.multiprocessors // 2  # blocks, to keep most of the GPU busy
    return enough // MANY_ROWS.count(shape) * MANY_ROWS.rows


def wgmma(rows: int) -> str:
    """A function that starts D (64, rows) = A (64, 16) · B (16, rows), plus D if `add`."""
    count = rows // 2
    sums = ", ".join(f"%{i}" for i in range(count))
    operands = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    a = ", ".join(f"%{count + i}" for i in range(4))
    return f"""
__device__ __forceinline__ void wgmma(float (&d)[{count}], const unsigned* a, unsigned long long b,
                                      bool add) {{
  asm volatile("{{\\n.reg .pred add;\\nsetp.ne.b32 add, %{count + 5}, 0;\\n"
    "wgmma.mma_async.sync.aligned.m64n{rows}k16.f32.f16.f16 {{{sums}}}, {{{a}}}, %{count + 4}, "
    "add, 1, 1, 0;\\n}}"
    : {operands} : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add));
}}
"""


_SOURCE = source_of(
    "warpgroups.cuh", "warpgroups", *(wgmma(blocks.rows) for blocks in (SOME_ROWS, MANY_ROWS))
)


def _call(function: str, *args: Any) -> Any:
    return T.cuda.func_call(f"warpgroups::{function}", *args, source_code=_SOURCE)


def make_arrange(shape: MatmulShape) -> Any:
    """``arrange(X, XS, M, padded, thread)``: one of ``padded * steps * 8`` threads."""
    K = shape.K

    @T.inline
    def arrange(X, XS, M, padded, thread):
        with T.sblock("arrange"):
            T.reads()
            T.writes()
            T.evaluate(await_inputs())
            T.evaluate(start_next())
            T.evaluate(
                _call(
                    f"arrange<{K}>",
                    T.address_of(XS[0, 0]),
                    T.address_of(X[0, 0]),
                    T.Cast("int32", M),
                    T.Cast("int32", padded),
                    T.Cast("int32", thread),
                )
            )

    return arrange


def places(shape: MatmulShape, padded: Any) -> Any:
    """Threads of `make_arrange`."""
    return padded * (shape.steps * _PLACES)


def arranged(shape: MatmulShape, padded: Any) -> tuple[Any, int]:
    """The shape of x as `make_arrange` lays it out, in float16."""
    return padded, shape.steps * STEP


def make_warpgroups(shape: MatmulShape, blocks: Blocks) -> Any:
    """``multiply(XS, W, S, B, RES, Y, M, padded, bx, by, tx)``: rows of x of block bx."""
    ROWS, ACROSS, GROUPS, SUMS = blocks.rows, blocks.across, blocks.groups, blocks.sums
    BYTES, N = blocks.shared_bytes, shape.N
    OWN = SUMS // shape.tiles  # outputs of a thread
    MAKERS, BRINGS = blocks.makers, blocks.brings
    STRUCT = (
        f"warpgroups::Block<{shape.K}, {shape.bits}, {ROWS}, {ACROSS}, {GROUPS}, {blocks.stages}, "
        f"{str(shape.gated).lower()}>"
    )
    write = make_write(shape)

    def output_tile(warpgroup: Any, warp: Any) -> Any:
        """The 16 outputs of a warp; with `gated`, two warps have gates and two their ups."""
        return warpgroup * 2 + warp % 2 if shape.gated else warpgroup * 4 + warp

    def tile_of_w(output: Any, warp: Any) -> Any:
        if shape.gated:
            return T.min(output, N // 32 - 1) + warp // 2 * (N // 32)
        return T.min(output, N // 16 - 1)

    def first_sum(group: Any, warp: Any) -> Any:
        """Where the thread's outputs are among those of its 64 (32 of gates) rows of W."""
        return group * SUMS + (warp // 2 * OWN if shape.gated else 0)

    @T.inline
    def make(XS, W, S, B, RES, Y, M, padded, shared, bx, by, tx):
        total = T.sblock_alloc_buffer((SUMS,), "float32", scope="local")
        lane: T.let = tx % WARP
        warp: T.let = tx // WARP % 4
        output: T.let = output_tile(by * ACROSS + tx // (4 * WARP) % ACROSS, warp)
        T.evaluate(
            _call(
                f"products<{STRUCT}>",
                T.address_of(total[0]),
                T.address_of(XS[0, 0]),
                T.address_of(W[0, 0, 0, 0, 0]),
                T.address_of(S[0, 0, 0, 0]) if shape.coded else T.address_of(S[0, 0, 0, 0, 0]),
                T.address_of(shared[0]),
                T.address_of(shared[BYTES - 1]),
                T.Cast("int32", padded),
                T.Cast("int32", bx * ROWS),
                T.Cast("int32", tile_of_w(output, warp)),
            )
        )
        first: T.let = first_sum(tx // (4 * WARP * ACROSS), warp)
        for i in T.unroll(OWN):
            m: T.let = bx * ROWS + (first + i) // 4 * 8 + lane % 4 * 2 + (first + i) % 2
            n: T.let = output * 16 + lane // 4 + (first + i) % 4 // 2 * 8
            write(Y, B, RES, M, total, i, OWN, m, n)

    @T.inline
    def multiply(XS, W, S, B, RES, Y, M, padded, bx, by, tx):
        with T.sblock("warpgroups"):
            T.reads()
            T.writes()
            shared = T.sblock_alloc_buffer((BYTES,), "uint8", scope="shared.dyn")
            T.evaluate(_call(f"ready<{STRUCT}>", T.address_of(shared[0])))
            if BRINGS:
                if tx < MAKERS:
                    make(XS, W, S, B, RES, Y, M, padded, shared, bx, by, tx)
                else:
                    T.evaluate(
                        _call(
                            f"bring<{STRUCT}>",
                            T.address_of(XS[0, 0]),
                            T.address_of(shared[0]),
                            T.Cast("int32", padded),
                            T.Cast("int32", bx * ROWS),
                        )
                    )
            else:
                make(XS, W, S, B, RES, Y, M, padded, shared, bx, by, tx)

    return multiply
