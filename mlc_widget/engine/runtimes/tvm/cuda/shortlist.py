# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Chooses tokens on the GPU, or the few that may be chosen, so that the logits can stay there.

`records` describes the record of each row, which must be 0 before the kernels run.
"""

from __future__ import annotations

from typing import Any, Final

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.records import (
    BEST_TOKENS,
    BINS,
    CHOOSE_TOKENS,
    MOST,
    PER_UNIT,
    WORDS,
)

THREADS: Final = 256
BLOCKS: Final = 16
"""The number of blocks that share a row."""
_SOURCE = f"""
#ifndef CHOOSING  // each kernel brings it
#define CHOOSING
namespace choosing {{
constexpr int THREADS = {THREADS}, BINS = {BINS}, MOST = {MOST}, STEP = {THREADS * BLOCKS};

// The larger the logit, the larger the key; among equals (0 and -0 are), the first has the largest.
__device__ __forceinline__ void find_best(const float* row, int vocab, int first, void* record) {{
  unsigned long long most = 0;
  #pragma unroll 8
  for (int i = first; i < vocab; i += STEP) {{
    unsigned bits = __float_as_uint(row[i]);
    if (bits << 1 == 0) bits = 0;
    bits = bits << 1 > 0xff000000u ? 0xffffffffu : bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
    const unsigned long long key = (unsigned long long)bits << 32 | (0xffffffffu - (unsigned)i);
    most = key > most ? key : most;
  }}
  for (int lanes = 16; lanes > 0; lanes /= 2) {{
    const unsigned long long other = __shfl_xor_sync(0xffffffffu, most, lanes);
    most = other > most ? other : most;
  }}
  if (threadIdx.x % 32 == 0) atomicMax((unsigned long long*)record, most);
}}

__device__ __forceinline__ float best_of(const unsigned long long* record) {{
  const unsigned bits = (unsigned)(record[0] >> 32);
  return __uint_as_float(bits >> 31 ? bits ^ 0x80000000u : ~bits);
}}

// e ^ x, more exactly than fast mathematics gives it.
__device__ __forceinline__ float power(float x) {{
  const float whole = __fmul_rn(x, 1.44269502f);
  const float rest = __fmaf_rn(x, 1.92596303e-8f, __fmaf_rn(x, 1.44269502f, -whole));
  const float near = exp2f(whole);
  return __fmaf_rn(near, rest * 0.693147181f, near);
}}

// Not for a logit that is not finite: its bin is the last, or none.
__device__ __forceinline__ int bin_of(float best, float logit) {{
  return (int)fminf(__fmul_rn(__fsub_rn(best, logit), {PER_UNIT}.0f), BINS - 1.0f);
}}

__device__ __forceinline__ void count(const float* row, int vocab, int first, float scale,
                                      void* there, int* bins) {{
  __shared__ int counts[BINS];
  if (scale == 0.0f) return;
  unsigned long long* record = (unsigned long long*)there;
  for (int i = threadIdx.x; i < BINS; i += THREADS) counts[i] = 0;
  __syncthreads();
  const float best = best_of(record);
  double sum = 0;
  #pragma unroll 8
  for (int i = first; i < vocab; i += STEP) {{
    const float logit = row[i];
    sum += power(__fmul_rn(__fsub_rn(logit, best), scale));
    const int bin = bin_of(best, logit);
    if (bin >= 0 && bin < BINS - 1) atomicAdd(counts + bin, 1);
  }}
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  if (threadIdx.x % 32 == 0) atomicAdd((double*)(record + 1), sum);
  __syncthreads();
  for (int i = threadIdx.x; i < BINS; i += THREADS)
    if (counts[i]) atomicAdd(bins + i, counts[i]);
}}

__device__ __forceinline__ void list(const float* row, int vocab, int first, float scale,
                                     void* there, const int* bins) {{
  __shared__ int cut;
  if (scale == 0.0f) return;
  unsigned long long* record = (unsigned long long*)there;
  if (threadIdx.x == 0) cut = -1;
  __syncthreads();
  if (threadIdx.x < 32) {{  // a warp sums the bins, 32 at a time, until there are too many
    int before = 0;
    for (int i = threadIdx.x; i < BINS; i += 32) {{
      int sum = i < BINS - 1 ? bins[i] : MOST + 1;
      for (int lanes = 1; lanes < 32; lanes *= 2) {{
        const int other = __shfl_up_sync(0xffffffffu, sum, lanes);
        if (threadIdx.x >= lanes) sum += other;
      }}
      const unsigned fit = __ballot_sync(0xffffffffu, before + sum <= MOST);
      if (threadIdx.x == 0) cut += __popc(fit);
      if (~fit) break;
      before += __shfl_sync(0xffffffffu, sum, 31);
    }}
  }}
  __syncthreads();
  const int last = cut;
  int* numbers = (int*)(record + 2);
  if (first == 0) numbers[1] = last;
  const float best = best_of(record);
  #pragma unroll 8
  for (int i = first; i < vocab; i += STEP) {{
    const float logit = row[i];
    const int bin = bin_of(best, logit);
    if (bin >= 0 && bin <= last) {{
      const int at = atomicAdd(numbers, 1);
      if (at < MOST)
        record[3 + at] = (unsigned long long)(unsigned)i << 32 | __float_as_uint(logit);
    }}
  }}
}}
}}  // namespace choosing
#endif
"""


def _make_pass(step: str, function: str, *, drawn: bool) -> Any:
    """``scan(LOGITS, vocab, SCALE, RECORDS, BINNED, m)``: a kernel that reads all rows once.

    Args:
        step: The kernel's name for its block.
        function: The function of the CUDA source that each thread calls.
        drawn: Whether it also takes the row's scale and bins, for rows to draw from.
    """

    def call(
        LOGITS: Any, vocab: Any, SCALE: Any, RECORDS: Any, BINNED: Any, i: Any, at: Any
    ) -> Any:
        row, record = T.address_of(LOGITS[i, 0]), T.address_of(RECORDS[i, 0])
        args = [row, T.Cast("int32", vocab), T.Cast("int32", at)]
        args += [SCALE[i], record, T.address_of(BINNED[i, 0])] if drawn else [record]
        return T.cuda.func_call(f"choosing::{function}", *args, source_code=_SOURCE)

    @T.inline
    def scan(LOGITS, vocab, SCALE, RECORDS, BINNED, m):
        for i in T.thread_binding(m, thread="blockIdx.y"):
            for bx in T.thread_binding(BLOCKS, thread="blockIdx.x"):
                for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                    with T.sblock(step):
                        T.reads()
                        T.writes()
                        T.evaluate(
                            call(LOGITS, vocab, SCALE, RECORDS, BINNED, i, bx * THREADS + tx)
                        )

    return scan


def make_choose_tokens(width: int) -> Any:
    """Three kernels that make the records of rows of logits.

    Shapes: logits (m, width) float32, of which the first `vocab` of each row count; scale (m,)
    float32, 1 / temperature or 0; records (m, WORDS) int64 and bins (m, BINS) int32, 0 before.
    """
    find_best = _make_pass("best", "find_best", drawn=False)
    count = _make_pass("count", "count", drawn=True)
    list_candidates = _make_pass("list", "list", drawn=True)

    @T.prim_func(s_tir=True)
    def choose_tokens(
        logits: T.handle, vocab: T.int64, scale: T.handle, records: T.handle, bins: T.handle
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        m = T.int64()
        LOGITS = T.match_buffer(logits, (m, width), "float32")
        SCALE = T.match_buffer(scale, (m,), "float32")
        RECORDS = T.match_buffer(records, (m, WORDS), "int64")
        BINNED = T.match_buffer(bins, (m, BINS), "int32")
        find_best(LOGITS, vocab, SCALE, RECORDS, BINNED, m)
        count(LOGITS, vocab, SCALE, RECORDS, BINNED, m)
        list_candidates(LOGITS, vocab, SCALE, RECORDS, BINNED, m)

    return choose_tokens.with_attr("global_symbol", CHOOSE_TOKENS)


def make_best_tokens(width: int) -> Any:
    """A kernel that makes the first word of the records of rows of logits.

    Shapes: logits (m, width) float32, of which the first `vocab` of each row count; keys (m, 1)
    int64, 0 before.
    """
    find_best = _make_pass("best", "find_best", drawn=False)

    @T.prim_func(s_tir=True)
    def best_tokens(logits: T.handle, vocab: T.int64, keys: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        m = T.int64()
        LOGITS = T.match_buffer(logits, (m, width), "float32")
        KEYS = T.match_buffer(keys, (m, 1), "int64")
        find_best(LOGITS, vocab, LOGITS, KEYS, LOGITS, m)

    return best_tokens.with_attr("global_symbol", BEST_TOKENS)
