# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Kernels of which each thread calls a function of CUDA source for a row of logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.records import WANTED_WORDS

THREADS: Final = 256
BLOCKS: Final = 16
"""The number of blocks that share a row."""
_WANTED: Final = f"""
#ifndef ROW_PASS  // each kernel brings it
#define ROW_PASS
namespace row_pass {{
constexpr int THREADS = {THREADS}, STEP = {THREADS * BLOCKS};

struct Wanted {{  // see `records.WANTED`
  float scale;
  int mask;
  double at, within;
  int start, repeated, parts[3];
  float penalty;
}};
static_assert(sizeof(Wanted) == 4 * {WANTED_WORDS}, "as numpy has it");
}}  // namespace row_pass
#endif
"""


def make_pass(
    step: str, function: str, source: str, arguments: Callable[..., list[Any]], blocks: int
) -> Any:
    """``scan(m, vocab, LOGITS, …)``: a kernel that reads all rows once.

    Args:
        step: The kernel's name for its block.
        function: The function of the CUDA source that each thread calls, with its namespace.
        source: The CUDA source, which may use `row_pass`.
        arguments: The function's arguments but the first three, from those of the kernel and the
            row's number.
        blocks: The number of blocks that share a row.
    """

    def call(vocab: Any, i: Any, at: Any, LOGITS: Any, others: tuple[Any, ...]) -> Any:
        args = [T.address_of(LOGITS[i, 0]), T.Cast("int32", vocab), T.Cast("int32", at)]
        args += arguments(i, *others)
        return T.cuda.func_call(function, *args, source_code=_WANTED + source)

    @T.inline
    def scan(m, vocab, LOGITS, others):
        for i in T.thread_binding(m, thread="blockIdx.y"):
            for bx in T.thread_binding(blocks, thread="blockIdx.x"):
                for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                    with T.sblock(step):
                        T.reads()
                        T.writes()
                        T.evaluate(call(vocab, i, bx * THREADS + tx, LOGITS, others))

    return scan


def of_row(i: Any, *arrays: Any) -> list[Any]:
    """The addresses of a row's parts of arrays."""
    return [T.address_of(array[i, 0]) for array in arrays]
