# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Changes logits on the GPU, and forbids tokens; each change is rounded as numpy does it."""

from __future__ import annotations

from typing import Any, Final

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.records import (
    CHANGE_LOGITS,
    FORBID_TOKENS,
    WANTED_WORDS,
    words_of,
)
from mlc_widget.engine.runtimes.tvm.cuda.row_pass import BLOCKS, make_pass, of_row

_SOURCE: Final = """
#ifndef CHANGING  // each kernel brings it
#define CHANGING
namespace changing {
using namespace row_pass;

__device__ __forceinline__ void change(float* row, int vocab, int thread, const void* there,
                                       const void* all) {
  const Wanted& wanted = *(const Wanted*)there;
  const int2* changes = (const int2*)all + wanted.start;  // a token, and what to subtract
  for (int i = thread; i < wanted.repeated; i += THREADS) {
    const int token = changes[i].x;
    if (token < 0 || token >= vocab) continue;
    const float old = row[token];
    row[token] = old > 0 ? __fdiv_rn(old, wanted.penalty) : __fmul_rn(old, wanted.penalty);
  }
  changes += wanted.repeated;
  for (int part = 0; part < 3; ++part) {
    __syncthreads();  // as a token may have changes of several parts
    for (int i = thread; i < wanted.parts[part]; i += THREADS) {
      const int token = changes[i].x;
      if (token < 0 || token >= vocab) continue;
      row[token] = __fsub_rn(row[token], __int_as_float(changes[i].y));
    }
    changes += wanted.parts[part];
  }
}

__device__ __forceinline__ void forbid(float* row, int vocab, int first, const void* there,
                                       const void* all, int words) {
  const int mask = ((const Wanted*)there)->mask;
  if (mask == 0) return;
  const unsigned* masks = (const unsigned*)all + (long long)(mask - 1) * words;
  for (int i = first; i < vocab; i += STEP)
    if (!(masks[i / 32] >> i % 32 & 1)) row[i] = __int_as_float(0xff800000);
}
}  // namespace changing
#endif
"""


def make_change_logits(width: int) -> Any:
    """A kernel that makes the changes of rows of logits.

    Shapes: logits (m, width) float32, of which the first `vocab` of each row count; wanted
    (m, WANTED_WORDS) int32; changes (n, 2) int32, tokens and float32 amounts.
    """
    change = make_pass(
        "change",
        "changing::change",
        _SOURCE,
        lambda i, WANTED, CHANGES: [*of_row(i, WANTED), *of_row(0, CHANGES)],
        1,
    )

    @T.prim_func(s_tir=True)
    def change_logits(logits: T.handle, vocab: T.int64, wanted: T.handle, changes: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        m, n = T.int64(), T.int64()
        LOGITS = T.match_buffer(logits, (m, width), "float32")
        WANTED = T.match_buffer(wanted, (m, WANTED_WORDS), "int32")
        CHANGES = T.match_buffer(changes, (n, 2), "int32")
        change(m, vocab, LOGITS, (WANTED, CHANGES))

    return change_logits.with_attr("global_symbol", CHANGE_LOGITS)


def make_forbid_tokens(width: int) -> Any:
    """A kernel that gives tokens that are not allowed the logit minus infinity.

    Shapes: logits (m, width) float32, of which the first `vocab` of each row count; wanted
    (m, WANTED_WORDS) int32; masks (n, words_of(width)) int32, a bit for each token, from the lowest
    on.
    """
    words = words_of(width)
    forbid = make_pass(
        "forbid",
        "changing::forbid",
        _SOURCE,
        lambda i, WANTED, MASKS: [*of_row(i, WANTED), *of_row(0, MASKS), words],
        BLOCKS,
    )

    @T.prim_func(s_tir=True)
    def forbid_tokens(logits: T.handle, vocab: T.int64, wanted: T.handle, masks: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        m, n = T.int64(), T.int64()
        LOGITS = T.match_buffer(logits, (m, width), "float32")
        WANTED = T.match_buffer(wanted, (m, WANTED_WORDS), "int32")
        MASKS = T.match_buffer(masks, (n, words), "int32")
        forbid(m, vocab, LOGITS, (WANTED, MASKS))

    return forbid_tokens.with_attr("global_symbol", FORBID_TOKENS)
