# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Makes the inputs of the next decode step on the GPU, from the tokens that were chosen there."""

from __future__ import annotations

from typing import Any, Final

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import WARP
from mlc_widget.engine.runtimes.tvm.cuda.records import NEXT_STEP
from mlc_widget.engine.runtimes.tvm.layouts import PAGE

_SOURCE: Final = f"""
__device__ __forceinline__ void make_next_step(
    void* keys_there, int* ids, int* position, int* slot, const int* table, void* told_there,
    int* turn, int rows, int width, int most) {{
  unsigned long long *keys = (unsigned long long*)keys_there;
  volatile unsigned long long *told = (volatile unsigned long long*)told_there;
  const int row = threadIdx.x, now = *(volatile int*)turn;
  __syncwarp();
  if (row < rows) {{
    const unsigned long long key = keys[row];
    told[now * most + row] = key;
    keys[row] = 0;
    ids[row] = (int)(0xffffffffu - (unsigned)key);
    // Where that is beyond the pages of the row, nothing will read it.
    const int at = position[row] + 1, page = at / {PAGE};
    position[row] = at;
    slot[row] = table[row * width + (page < width ? page : width - 1)] * {PAGE} + at % {PAGE};
  }}
  if (row == 0) *(volatile int*)turn = 1 - now;
}}
"""


def make_next_step() -> Any:
    """A kernel (keys, ids, position, slot, table, told, turn) that follows a decode step.

    It copies the keys of the chosen tokens (`records`) to ``told[turn[0]]``, makes them 0, and
    ``turn[0]`` 1 - itself; and makes the tokens, and their positions and places in the pages, the
    inputs of a step that goes on with them.

    Shapes: keys (m, 1) int64; ids, position and slot (m,) int32; table (m, max_pages) int32; told
    (2, most) int64, which may be in the host's memory; turn (1,) int32. m is at most `WARP`.
    """

    @T.prim_func(s_tir=True)
    def next_step(
        keys: T.handle,
        ids: T.handle,
        position: T.handle,
        slot: T.handle,
        table: T.handle,
        told: T.handle,
        turn: T.handle,
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        m = T.int64()
        width = T.int64()
        most = T.int64()
        KEYS = T.match_buffer(keys, (m, 1), "int64")
        IDS = T.match_buffer(ids, (m,), "int32")
        POS = T.match_buffer(position, (m,), "int32")
        SLOT = T.match_buffer(slot, (m,), "int32")
        TABLE = T.match_buffer(table, (m, width), "int32")
        TOLD = T.match_buffer(told, (2, most), "int64")
        TURN = T.match_buffer(turn, (1,), "int32")
        for _bx in T.thread_binding(1, thread="blockIdx.x"):
            for _tx in T.thread_binding(WARP, thread="threadIdx.x"):
                with T.sblock("next_step"):
                    T.reads()
                    T.writes()
                    T.evaluate(
                        T.cuda.func_call(
                            "make_next_step",
                            T.address_of(KEYS[0, 0]),
                            T.address_of(IDS[0]),
                            T.address_of(POS[0]),
                            T.address_of(SLOT[0]),
                            T.address_of(TABLE[0, 0]),
                            T.address_of(TOLD[0, 0]),
                            T.address_of(TURN[0]),
                            T.Cast("int32", m),
                            T.Cast("int32", width),
                            T.Cast("int32", most),
                            source_code=_SOURCE,
                        )
                    )

    return next_step.with_attr("global_symbol", NEXT_STEP)
