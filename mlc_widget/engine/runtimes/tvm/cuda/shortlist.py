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
    DRAW_TOKENS,
    DRAWN_WORDS,
    MOST,
    PER_UNIT,
    WANTED_WORDS,
    WORDS,
    blocks_of,
)
from mlc_widget.engine.runtimes.tvm.cuda.row_pass import BLOCKS, make_pass, of_row
from mlc_widget.engine.runtimes.tvm.draws import BLOCK

_SOURCE: Final = f"""
#ifndef CHOOSING  // each kernel brings it
#define CHOOSING
namespace choosing {{
using namespace row_pass;
constexpr int BINS = {BINS}, MOST = {MOST}, BLOCK = {BLOCK};

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
  x = fmaxf(x, -200.0f);  // which gives 0, as less does; minus infinity would not
  const float whole = __fmul_rn(x, 1.44269502f);
  const float rest = __fmaf_rn(x, 1.92596303e-8f, __fmaf_rn(x, 1.44269502f, -whole));
  const float near = exp2f(whole);
  return __fmaf_rn(near, rest * 0.693147181f, near);
}}

// Not for a logit that is not finite: its bin is the last, or none.
__device__ __forceinline__ int bin_of(float best, float logit) {{
  return (int)fminf(__fmul_rn(__fsub_rn(best, logit), {PER_UNIT}.0f), BINS - 1.0f);
}}

// The sums of blocks of tokens, each by a warp.
__device__ __forceinline__ void sum_blocks(const float* row, int vocab, int warp, float best,
                                           float scale, double* sums) {{
  const int lane = threadIdx.x % 32;
  for (int block = warp; block * BLOCK < vocab; block += STEP / 32) {{
    double sum = 0;
    #pragma unroll
    for (int j = 0; j < BLOCK; j += 32) {{
      const int i = block * BLOCK + j + lane;
      if (i < vocab) sum += power(__fmul_rn(__fsub_rn(row[i], best), scale));
    }}
    for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    if (lane == 0) sums[block] = sum;
  }}
}}

// Find the block in which a draw falls, by one warp; its sums are at `record` + 3.
__device__ __forceinline__ int find_block(int blocks, double at, const double* sums,
                                          double* record) {{
  const int lane = threadIdx.x;
  double total = 0;
  for (int i = lane; i < blocks; i += 32) total += sums[i];
  for (int lanes = 16; lanes > 0; lanes /= 2)
    total += __shfl_xor_sync(0xffffffffu, total, lanes);
  if (lane == 0) record[1] = total;
  double before = 0;
  for (int first = 0; first < blocks; first += 32) {{
    const int i = first + lane;
    const double own = i < blocks ? sums[i] : 0;
    double sum = own;
    for (int lanes = 1; lanes < 32; lanes *= 2) {{
      const double other = __shfl_up_sync(0xffffffffu, sum, lanes);
      if (lane >= lanes) sum += other;
    }}
    // If rounding leaves none, the host is not sure of the last one.
    const unsigned after = __ballot_sync(
        0xffffffffu, i < blocks && (before + sum > at * total || i == blocks - 1));
    if (after) {{
      const int found = __ffs(after) - 1;
      if (lane == found) record[3] = before + sum - own, record[4] = own;
      return first + found;
    }}
    before += __shfl_sync(0xffffffffu, sum, 31);
  }}
  return 0;
}}

__device__ __forceinline__ void count(const float* row, int vocab, int first, const void* wanted,
                                      void* there, int* bins, double* sums) {{
  __shared__ int counts[BINS];
  const float scale = ((const Wanted*)wanted)->scale;
  if (scale == 0.0f) return;
  if (((const Wanted*)wanted)->at >= 0) {{
    sum_blocks(row, vocab, first / 32, best_of((unsigned long long*)there), scale, sums);
    return;
  }}
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

__device__ __forceinline__ void list(const float* row, int vocab, int first, const void* wanted,
                                     void* there, const int* bins, const double* sums) {{
  __shared__ int cut;
  if (((const Wanted*)wanted)->scale == 0.0f) return;
  const double at = ((const Wanted*)wanted)->at;
  if (at >= 0) {{
    if (first >= THREADS) return;  // one block of threads does it
    if (first < 32) {{
      const int found = find_block((vocab + BLOCK - 1) / BLOCK, at, sums, (double*)there);
      if (first == 0) cut = found;
    }}
    __syncthreads();
    const int i = cut * BLOCK + first;
    if (i < vocab) ((float*)there)[2 * 5 + first] = row[i];
    if (first == 0) ((int*)there)[2 * 2 + 1] = cut;
    return;
  }}
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

// Draw a token, nearly as the host will, by one block of threads.
__device__ __forceinline__ void draw(const float* row, int vocab, int first, const void* there,
                                     void* record_there, const double* sums, void* key,
                                     void* told_there, const int* turn, int number, int most) {{
  const Wanted& wanted = *(const Wanted*)there;
  unsigned long long* record = (unsigned long long*)record_there;
  volatile unsigned long long* told = (volatile unsigned long long*)told_there;
  list(row, vocab, first, there, record_there, nullptr, sums);
  __syncthreads();
  told += (*(const volatile int*)turn * (long long)most + number) * {DRAWN_WORDS};
  for (int i = first; i < {DRAWN_WORDS}; i += THREADS) told[i] = record[i];
  __syncthreads();
  if (first >= 32) return;
  int token = (int)(0xffffffffu - (unsigned)record[0]);
  if (wanted.scale != 0.0f) {{
    constexpr int EACH = BLOCK / 32;
    const float best = best_of(record);
    const int start = ((const int*)record)[2 * 2 + 1] * BLOCK + first * EACH;
    double own = 0, until[EACH];
    #pragma unroll
    for (int j = 0; j < EACH; ++j) {{
      if (start + j < vocab) own += power(__fmul_rn(__fsub_rn(row[start + j], best), wanted.scale));
      until[j] = own;
    }}
    double sum = own;
    for (int lanes = 1; lanes < 32; lanes *= 2) {{
      const double other = __shfl_up_sync(0xffffffffu, sum, lanes);
      if (first >= lanes) sum += other;
    }}
    const double target = wanted.within * __shfl_sync(0xffffffffu, sum, 31);
    const unsigned after = __ballot_sync(0xffffffffu, sum > target);
    int found = start;
    #pragma unroll
    for (int j = 0; j < EACH - 1; ++j) found += sum - own + until[j] <= target;
    found = __shfl_sync(0xffffffffu, found, after ? __ffs(after) - 1 : 0);
    if (after) token = found < vocab ? found : vocab - 1;
  }}
  __syncwarp();
  if (first == 0) {{
    *(unsigned long long*)key = 0xffffffffu - (unsigned)token;
    record[0] = 0;
  }}
}}
}}  // namespace choosing
#endif
"""


def make_choose_tokens(width: int) -> Any:
    """Three kernels that make the records of rows of logits.

    Shapes: logits (m, width) float32, of which the first `vocab` of each row count; wanted
    (m, WANTED_WORDS) int32; records (m, WORDS) int64 and bins (m, BINS) int32, 0 before; sums
    (m, blocks_of(width)) float64.
    """
    find_best = make_pass("best", "choosing::find_best", _SOURCE, of_row, BLOCKS)
    count = make_pass("count", "choosing::count", _SOURCE, of_row, BLOCKS)
    list_candidates = make_pass("list", "choosing::list", _SOURCE, of_row, BLOCKS)
    sumsof_row = blocks_of(width)

    @T.prim_func(s_tir=True)
    def choose_tokens(
        logits: T.handle,
        vocab: T.int64,
        wanted: T.handle,
        records: T.handle,
        bins: T.handle,
        sums: T.handle,
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        m = T.int64()
        LOGITS = T.match_buffer(logits, (m, width), "float32")
        WANTED = T.match_buffer(wanted, (m, WANTED_WORDS), "int32")
        RECORDS = T.match_buffer(records, (m, WORDS), "int64")
        BINNED = T.match_buffer(bins, (m, BINS), "int32")
        SUMS = T.match_buffer(sums, (m, sumsof_row), "float64")
        find_best(m, vocab, LOGITS, (RECORDS,))
        count(m, vocab, LOGITS, (WANTED, RECORDS, BINNED, SUMS))
        list_candidates(m, vocab, LOGITS, (WANTED, RECORDS, BINNED, SUMS))

    return choose_tokens.with_attr("global_symbol", CHOOSE_TOKENS)


def make_best_tokens(width: int) -> Any:
    """A kernel that makes the first word of the records of rows of logits.

    Shapes: logits (m, width) float32, of which the first `vocab` of each row count; keys (m, 1)
    int64, 0 before.
    """
    find_best = make_pass("best", "choosing::find_best", _SOURCE, of_row, BLOCKS)

    @T.prim_func(s_tir=True)
    def best_tokens(logits: T.handle, vocab: T.int64, keys: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        m = T.int64()
        LOGITS = T.match_buffer(logits, (m, width), "float32")
        KEYS = T.match_buffer(keys, (m, 1), "int64")
        find_best(m, vocab, LOGITS, (KEYS,))

    return best_tokens.with_attr("global_symbol", BEST_TOKENS)


def make_draw_tokens(width: int) -> Any:
    """Kernels that make the records of rows without filters, and draw a token of each.

    The token is nearly always the one that the host will draw from the record.

    Shapes: logits (m, width) float32, of which the first `vocab` of each row count; wanted
    (m, WANTED_WORDS) int32; records (m, DRAWN_WORDS) int64, whose first words are 0 before and
    afterwards; sums (m, blocks_of(width)) float64; keys (m, 1) int64, made keys of the tokens, as
    `next_step` takes them; told (2, most, DRAWN_WORDS) int64, which may be in the host's memory:
    the records are copied to ``told[turn[0]]``; turn (1,) int32.
    """
    find_best = make_pass("best", "choosing::find_best", _SOURCE, of_row, BLOCKS)
    count = make_pass(
        "count",
        "choosing::count",  # without bins, which are for filters
        _SOURCE,
        lambda i, WANTED, RECORDS, SUMS: of_row(i, WANTED, RECORDS, WANTED, SUMS),
        BLOCKS,
    )
    sumsof_row = blocks_of(width)

    def drawing(i: Any, WANTED: Any, RECORDS: Any, SUMS: Any, KEYS: Any, *told: Any) -> list[Any]:
        TOLD, TURN, most = told
        last = [T.address_of(TOLD[0, 0, 0]), T.address_of(TURN[0])]
        numbers = [T.Cast("int32", i), T.Cast("int32", most)]
        return [*of_row(i, WANTED, RECORDS, SUMS, KEYS), *last, *numbers]

    draw = make_pass("draw", "choosing::draw", _SOURCE, drawing, 1)

    @T.prim_func(s_tir=True)
    def draw_tokens(
        logits: T.handle,
        vocab: T.int64,
        wanted: T.handle,
        records: T.handle,
        sums: T.handle,
        keys: T.handle,
        told: T.handle,
        turn: T.handle,
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        m, most = T.int64(), T.int64()
        LOGITS = T.match_buffer(logits, (m, width), "float32")
        WANTED = T.match_buffer(wanted, (m, WANTED_WORDS), "int32")
        RECORDS = T.match_buffer(records, (m, DRAWN_WORDS), "int64")
        SUMS = T.match_buffer(sums, (m, sumsof_row), "float64")
        KEYS = T.match_buffer(keys, (m, 1), "int64")
        TOLD = T.match_buffer(told, (2, most, DRAWN_WORDS), "int64")
        TURN = T.match_buffer(turn, (1,), "int32")
        find_best(m, vocab, LOGITS, (RECORDS,))
        count(m, vocab, LOGITS, (WANTED, RECORDS, SUMS))
        draw(m, vocab, LOGITS, (WANTED, RECORDS, SUMS, KEYS, TOLD, TURN, most))

    return draw_tokens.with_attr("global_symbol", DRAW_TOKENS)
