"""CUDA's instructions that TIR lacks: shuffles, wide loads, tensor cores.

Functions called by a kernel take the elements that they write by reference, because TVM shrinks
arrays to the elements whose use it sees, and does not see uses through a pointer.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.builder import Activation
from mlc_widget.engine.runtimes.tvm.kernels.isa import LOG2E

WARP = 32
_OVERLAPPED = {"tirx.kernel_launch_params": ["tirx.use_programtic_dependent_launch"]}


def named(function: Any, name: str, *, overlapped: bool) -> Any:
    """Name a PrimFunc; if `overlapped`, its kernel may start before the previous one has ended."""
    return function.with_attr({"global_symbol": name} | (_OVERLAPPED if overlapped else {}))


def shuffle_xor(value: Any, mask: Any) -> Any:
    """The value of the lane whose number is this lane's, xor `mask`."""
    return T.tvm_warp_shuffle_xor(T.uint32(0xFFFFFFFF), value, mask, WARP, WARP)


def shuffle(value: Any, lane: Any) -> Any:
    """The value of a lane."""
    return T.tvm_warp_shuffle(T.uint32(0xFFFFFFFF), value, lane, WARP, WARP)


def f32(value: Any) -> Any:
    """As float32."""
    return T.Cast("float32", value)


def activated(value: Any, kind: Activation) -> Any:
    """``kind(value)``; see `kernels.activation` for the definitions."""
    if kind == "gelu":
        return value * T.float32(0.5) * (T.float32(1) + T.erf(value * T.float32(math.sqrt(0.5))))
    power = T.float32(0) - value
    if kind == "gelu_tanh":
        inner = value + T.float32(0.044715) * (value * value * value)
        power = inner * T.float32(-2 * math.sqrt(2 / math.pi))
    return value / (T.float32(1) + T.exp(power))


def capped(value: Any, cap: float) -> Any:
    """``cap * tanh(value / cap)``."""
    power = T.min(T.max(value * T.float32(2 * LOG2E / cap), T.float32(-126)), T.float32(126))
    return T.float32(cap) - T.float32(2 * cap) / (T.float32(1) + T.exp2(power))


def saturated(value: Any, dtype: str = "float16") -> Any:
    """Convert to float16, saturating at its largest number; or leave a float32 as it is."""
    if dtype == "float32":
        return value
    return T.Cast("float16", T.min(T.max(value, T.float32(-65504)), T.float32(65504)))


_WORDS16 = "unsigned& a, unsigned& b, unsigned& c, unsigned& d, const void* p"
_LOAD16 = f"""
__device__ __forceinline__ void load16({_WORDS16}) {{
  uint4 v = __ldg((const uint4*)p); a = v.x; b = v.y; c = v.z; d = v.w;
}}
"""
_STREAM16 = f"""
__device__ __forceinline__ void stream16({_WORDS16}) {{
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {{%0, %1, %2, %3}}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "l"(p));
}}
"""
_FETCH16 = f"""
__device__ __forceinline__ void fetch16({_WORDS16}) {{
  asm volatile("ld.global.v4.u32 {{%0, %1, %2, %3}}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "l"(p) : "memory");
}}
"""
_FETCH8 = """
__device__ __forceinline__ void fetch8(unsigned& a, unsigned& b, const void* p) {
  asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(a), "=r"(b) : "l"(p) : "memory");
}
"""
_FETCH4 = """
__device__ __forceinline__ float fetch4(const float* p) {
  float v;
  asm volatile("ld.global.f32 %0, [%1];" : "=f"(v) : "l"(p) : "memory");
  return v;
}
"""
_FETCH_INT = """
__device__ __forceinline__ int fetch_int(const int* p) {
  int v;
  asm volatile("ld.global.cg.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
"""
_PREFETCH = """
__device__ __forceinline__ void prefetch(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" :: "l"(p) : "memory");
}
"""
_LOAD8 = """
__device__ __forceinline__ void load8(unsigned& a, unsigned& b, const void* p) {
  uint2 v = __ldg((const uint2*)p); a = v.x; b = v.y;
}
"""
_MMA = """
__device__ __forceinline__ void mma_16_8_16(
    float& c0, float& c1, float& c2, float& c3, unsigned a0, unsigned a1, unsigned a2, unsigned a3,
    unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
"""
_AWAIT_INPUTS = """
__device__ __forceinline__ void await_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
"""
_START_NEXT = """
__device__ __forceinline__ void start_next() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
"""
_JOINED_PARTS = """
__device__ __forceinline__ float2 fetch_part(const float* p) {
  float2 v;
  asm volatile("ld.global.cg.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ void joined_parts(float& low, float& high, const float* parts, int count,
                                             int stride, int dims, int d) {
  constexpr int ONCE = 8;  // parts that are loaded before they are used
  float top = -1e30f, total = 0.0f;
  low = 0.0f; high = 0.0f;
  for (; count > 0; count -= ONCE, parts += ONCE * stride) {
    float2 value[ONCE], sum[ONCE];
    #pragma unroll
    for (int i = 0; i < ONCE; ++i) {
      if (i < count) {
        value[i] = fetch_part(parts + i * stride + d);
        sum[i] = fetch_part(parts + i * stride + dims);
      }
    }
    #pragma unroll
    for (int i = 0; i < ONCE; ++i) {
      if (i < count) {
        const float most = max(top, sum[i].x);
        const float mine = exp2f(top - most), other = exp2f(sum[i].x - most);
        top = most;
        total = __fmaf_rn(total, mine, __fmul_rn(sum[i].y, other));
        low = __fmaf_rn(low, mine, __fmul_rn(value[i].x, other));
        high = __fmaf_rn(high, mine, __fmul_rn(value[i].y, other));
      }
    }
  }
  low = low / total;
  high = high / total;
}
"""
_ARRIVE = """
__device__ __forceinline__ int arrive_at(int* count) {
  int before;
  asm volatile("atom.add.acq_rel.gpu.global.s32 %0, [%1], 1;"
               : "=r"(before) : "l"(count) : "memory");
  return before;
}
"""
_PRODUCT = """
__device__ __forceinline__ float product(float a, float b) { return __fmul_rn(a, b); }
"""
_MULTIPLIED_ADDED = """
__device__ __forceinline__ float multiplied_added(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}
"""
ROTATE = """
__device__ __forceinline__ void rotate(float& c, float& s, float a, float b) {
  const float low = __fmaf_rn(a, c, -__fmul_rn(b, s)), high = __fmaf_rn(b, c, __fmul_rn(a, s));
  c = low; s = high;
}
"""
INVERSE_ROOT = """
__device__ __forceinline__ float inverse_root(float sum, float count, float added) {
  return 1.0f / sqrtf(sum / count + added);
}
"""
_OPAQUE = """
__device__ __forceinline__ int opaque(int value) { return value * (int)gridDim.z; }
"""
_PACK2 = """
__device__ __forceinline__ unsigned pack2(float low, float high) {
  __half2 both = __floats2half2_rn(low, high);
  return *(unsigned*)&both;
}
"""
# 0x6400 | c is 1024 + c in float16, and 0x6400 | c << 4 is 1024 + 16 c. Multiplying by one half of
# `scales` needs no instruction to extract it.
_HALVES = """
  const __half2 s = *(const __half2*)&scales, s0 = __low2half2(s), s1 = __high2half2(s);
  __half2 r0 = __hmul2(v0, s0), r1 = __hmul2(v1, s1), r2 = __hmul2(v2, s0), r3 = __hmul2(v3, s1);
  a0 = *(unsigned*)&r0; a1 = *(unsigned*)&r1; a2 = *(unsigned*)&r2; a3 = *(unsigned*)&r3;
"""
# One `lop3` each: the compiler makes two of the same in C++, as each has a constant.
DECODE4 = f"""
template <unsigned MASK>
__device__ __forceinline__ unsigned code4(unsigned word) {{
  unsigned code;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(code) : "r"(word), "n"(MASK), "r"(0x64006400));
  return code;
}}
__device__ __forceinline__ void decode4(unsigned& a0, unsigned& a1, unsigned& a2, unsigned& a3,
                                        unsigned word, unsigned scales) {{
  unsigned h0 = code4<0x000f000f>(word), h1 = code4<0x00f000f0>(word);
  word >>= 8;
  unsigned h2 = code4<0x000f000f>(word), h3 = code4<0x00f000f0>(word);
  const unsigned low = 0xe407e407, high = 0xd470d470, part = 0x2c002c00;  // -1031, -71, 1/16
  __half2 v0 = __hadd2(*(__half2*)&h0, *(const __half2*)&low);
  __half2 v1 = __hfma2(*(__half2*)&h1, *(const __half2*)&part, *(const __half2*)&high);
  __half2 v2 = __hadd2(*(__half2*)&h2, *(const __half2*)&low);
  __half2 v3 = __hfma2(*(__half2*)&h3, *(const __half2*)&part, *(const __half2*)&high);
{_HALVES}}}
"""
DECODE8 = f"""
__device__ __forceinline__ void decode8(unsigned& a0, unsigned& a1, unsigned& a2, unsigned& a3,
                                        unsigned upper, unsigned lower, unsigned scales) {{
  unsigned h0 = __byte_perm(upper, 0x64646464, 0x4140), h1 = __byte_perm(lower, 0x64646464, 0x4140);
  unsigned h2 = __byte_perm(upper, 0x64646464, 0x4342), h3 = __byte_perm(lower, 0x64646464, 0x4342);
  const unsigned zero = 0xe47fe47f;  // -1151
  __half2 v0 = __hadd2(*(__half2*)&h0, *(const __half2*)&zero);
  __half2 v1 = __hadd2(*(__half2*)&h1, *(const __half2*)&zero);
  __half2 v2 = __hadd2(*(__half2*)&h2, *(const __half2*)&zero);
  __half2 v3 = __hadd2(*(__half2*)&h3, *(const __half2*)&zero);
{_HALVES}}}
"""


def source_of(file: str, namespace: str, *above: str) -> str:
    """`namespaced` for a file of products, with `DECODE4`, `DECODE8` and ``instructions.cuh``."""
    instructions = (Path(__file__).parent / "instructions.cuh").read_text()
    return namespaced(file, namespace, DECODE4, DECODE8, *above, instructions)


def namespaced(file: str, namespace: str, *above: str) -> str:
    """The CUDA source of a file beside this one, with what it uses above it, in a namespace.

    TVM writes it once for each function that is called.

    Args:
        file: The file's name.
        namespace: The namespace.
        *above: What it uses.
    """
    guard = namespace.upper()
    source = "".join((*above, (Path(__file__).parent / file).read_text()))
    head = f"\n#ifndef {guard}\n#define {guard}\nnamespace {namespace} {{\n"
    return f"{head}{source}}}  // namespace {namespace}\n#endif\n"


def _call(name: str, source: str, *args: Any) -> Any:
    return T.cuda.func_call(name, *args, source_code=source)


def _four(buffer: Any, at: Any) -> tuple[Any, ...]:
    return buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3]


def load16(to: Any, at: Any, address: Any) -> Any:
    """Load 16 bytes, which no kernel may write meanwhile, into 4 words from ``to[at]`` on."""
    return _call("load16", _LOAD16, *_four(to, at), address)


def stream16(to: Any, at: Any, address: Any) -> Any:
    """Like `load16`, for data that is read once; it does not stay in the L1 cache."""
    return _call("stream16", _STREAM16, *_four(to, at), address)


def fetch16(to: Any, at: Any, address: Any) -> Any:
    """Like `load16`, for data that the previous kernel may write until `await_inputs`."""
    return _call("fetch16", _FETCH16, *_four(to, at), address)


def fetch8(to: Any, at: Any, address: Any) -> Any:
    """Like `fetch16`, for 8 bytes."""
    return _call("fetch8", _FETCH8, to[at], to[at + 1], address)


def fetch4(address: Any) -> Any:
    """Like `fetch16`, for a float32."""
    return T.cuda.func_call("fetch4", address, source_code=_FETCH4, return_type="float32")


def fetch_int(address: Any) -> Any:
    """Like `fetch16`, for an int32, past the L1 cache, which may have an earlier step's."""
    return T.cuda.func_call("fetch_int", address, source_code=_FETCH_INT, return_type="int32")


def prefetch(address: Any) -> Any:
    """Have the 128 bytes there brought into the L2 cache."""
    return _call("prefetch", _PREFETCH, address)


def await_inputs() -> Any:
    """Wait for the previous kernel, in an `overlapped` one that may start while it runs.

    Data that the previous kernel writes must be read with `fetch16` and the like, as other loads
    may be moved before the wait; so must what is to come before it, as they may be moved behind it.
    """
    return _call("await_inputs", _AWAIT_INPUTS)


def start_next() -> Any:
    """Let the next kernel start, if it is `overlapped`, as soon as there is room for it.

    Before `await_inputs`, the kernels after it can start, too, and have weights on their way; they
    still await all before them, since a kernel has ended only when its threads have awaited theirs.
    Kernels whose blocks fill the GPU more than once call it after `await_inputs`, as blocks that
    wait would take the places of theirs.
    """
    return _call("start_next", _START_NEXT)


def joined_parts(to: Any, parts: Any, count: Any, stride: Any, dims: Any, d: Any) -> Any:
    """Join `count` parts of a head for dimensions d and d + 1, ascending, to ``to[0:2]``.

    `parts` is the address of the first, which other blocks wrote before they arrived; each has
    `dims` outputs, the maximum and the sum, and begins `stride` floats after the one before it.
    """
    return _call("joined_parts", _JOINED_PARTS, to[0], to[1], parts, count, stride, dims, d)


def arrive(address: Any) -> Any:
    """Add 1 to an int32 that blocks share, and return what it was.

    Called by one thread of a block between two barriers: what the block's threads wrote before is
    seen by those of the block that arrives last.
    """
    return T.cuda.func_call("arrive_at", address, source_code=_ARRIVE, return_type="int32")


def product(a: Any, b: Any) -> Any:
    """``a * b``, rounded, which the compiler does not join with a sum."""
    return T.cuda.func_call("product", a, b, source_code=_PRODUCT, return_type="float32")


def multiplied_added(a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded once."""
    return T.cuda.func_call(
        "multiplied_added", a, b, c, source_code=_MULTIPLIED_ADDED, return_type="float32"
    )


def rotate(angle: Any, a: Any, b: Any) -> Any:
    """Rotate a and b by ``angle[0:2]``, a cosine and a sine, in whose place the results go."""
    return _call("rotate", ROTATE, angle[0], angle[1], a, b)


def inverse_root(sum_: Any, count: int, added: float) -> Any:
    """``1 / sqrt(sum / count + added)``, rounded in the same way in all kernels."""
    return T.cuda.func_call(
        "inverse_root",
        sum_,
        T.float32(count),
        T.float32(added),
        source_code=INVERSE_ROOT,
        return_type="float32",
    )


def load8(to: Any, at: Any, address: Any) -> Any:
    """Load 8 bytes, which no kernel may write meanwhile, into 2 words from ``to[at]`` on."""
    return _call("load8", _LOAD8, to[at], to[at + 1], address)


def mma(c: Any, i: Any, a: Any, j: Any, b: Any, k: Any) -> Any:
    """C (16, 8) += A (16, 16) · B (16, 8) on tensor cores, float32 += float16 · float16.

    Each lane of a warp holds parts of them; with g = lane // 4 and j = lane % 4:

    - C: 4 floats of rows g, g, g + 8, g + 8 and columns 2j, 2j + 1, 2j, 2j + 1.
    - A: 4 words of 2 values, in rows g, g + 8, g, g + 8 and columns 2j, 2j + 1 (words 0 and 1) and
      2j + 8, 2j + 9 (words 2 and 3).
    - B: 2 words, in column g and rows 2j, 2j + 1 and 2j + 8, 2j + 9.

    Any inputs may be A's columns as long as B's rows are the same. So the kernels give lane j four
    successive inputs, 4j … 4j + 3 (or, of 32 inputs, 8j … 8j + 7 in two calls).
    """
    return _call("mma_16_8_16", _MMA, *_four(c, i), *_four(a, j), b[k], b[k + 1])


def pack2(low: Any, high: Any) -> Any:
    """Pack two float32 as float16 into a word."""
    return T.cuda.func_call("pack2", low, high, source_code=_PACK2, return_type="uint32")


def opaque(value: Any) -> Any:
    """Hide an int32's value from the compiler, by multiplying it by the grid's size in z, 1."""
    return T.cuda.func_call(
        "opaque", T.Cast("int32", value), source_code=_OPAQUE, return_type="int32"
    )


def decode4(to: Any, word: Any, scales: Any) -> Any:
    """Decode A's 4 words from `fragments.Codes4` to ``to[0:4]``: (code - 7) · scale in float16."""
    return _call("decode4", DECODE4, *_four(to, 0), word, scales)


def decode8(to: Any, upper: Any, lower: Any, scales: Any) -> Any:
    """Decode A's 4 words from `fragments.Codes8` to ``to[0:4]``: (code - 127) · scale, float16."""
    return _call("decode8", DECODE8, *_four(to, 0), upper, lower, scales)
