# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Linear layers with weights in ggml's blocks (`tvm.blocks`), y = x · Wᵀ (+ bias) (+ residual).

With 8-bit activations (`kernels.quantize`), the sum for each output n and row m is over the groups
of weights (of 32 inputs, or two halves of 16), in ascending order:

    d = Σ code · q − zero · Σ q                                     exact
    y = fma(float(d), s · x, y)                                     from 0; x is the scale of q
    y = fma(fma(s, float(d), −m · float(Σ q)), x, y)                for formats with minima

With float activations, it is over the groups of 32 inputs, in ascending order:

    w = fma(s, code − zero, −m)                                     the weight, rounded once
    y = y + Σ p[j],  p[j] = fma chain of w · x, from 0              over every chain-th code

Then follow + bias and + residual. The order is the same for any tile of rows and any number of
threads. `s` and `m` are products of scales and factors, exact in float32.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.blocks import BlockFormat
from mlc_widget.engine.runtimes.tvm.kernels.dot import DOTS
from mlc_widget.engine.runtimes.tvm.kernels.isa import F32, U32, Isa, in_registers, prefetch, splat
from mlc_widget.engine.runtimes.tvm.kernels.matmul import AHEAD, code
from mlc_widget.engine.runtimes.tvm.kernels.quantize import quantized_words

_NIBBLES = 0x0F0F0F0F


class _Reader:
    """Loads scales, minima and floats of `lanes` outputs of a matrix."""

    def __init__(self, kind: BlockFormat, K: int, isa: Isa, lanes: int = 16) -> None:
        self.kind, self.isa, self.lanes = kind, isa, lanes
        self.at = kind.sections(K)

    def scale(self, W: Any, nb: Any, part: Any, group: Any) -> Any:
        """``scale · factor`` of a group of weights."""
        return self._product(W, nb, part, group, self.at.scales, self.at.factors, self.kind.signed)

    def minimum(self, W: Any, nb: Any, part: Any, group: Any) -> Any:
        """``minimum · its factor`` of a group of weights."""
        return self._product(W, nb, part, group, self.at.minima, self.at.minimum_factors, False)

    def _product(
        self, W: Any, nb: Any, part: Any, group: Any, scales: int, factors: int, signed: bool
    ) -> Any:
        kind, L = self.kind, self.lanes
        of_block = self._float(W, nb, part, scales, group * kind.group // kind.block)
        if not kind.factors:
            return of_block
        words = W.vload([nb, factors + group * 4 + part * (L // 4)], f"uint32x{L // 4}")
        bytes_ = T.reinterpret(f"{'int8' if signed else 'uint8'}x{L}", words)
        return of_block * T.Cast(f"float32x{L}", bytes_)

    def float(self, W: Any, nb: Any, k: Any) -> Any:
        """Sixteen float weights of input `k`, as float32."""
        if self.kind.name != "BF16":
            return self._float(W, nb, 0, 0, k)
        halves = T.reinterpret("uint16x16", W.vload([nb, k * 8], "uint32x8"))
        words = T.shift_left(T.Cast(U32, halves), T.broadcast(T.uint32(16), 16))
        return T.reinterpret(F32, words)

    def _float(self, W: Any, nb: Any, part: Any, start: int, i: Any) -> Any:
        L = self.lanes
        if self.kind.dtype == "float32" or self.kind.bits == 32:
            return T.reinterpret(
                f"float32x{L}", W.vload([nb, start + i * 16 + part * L], f"uint32x{L}")
            )
        words = W.vload([nb, start + i * 8 + part * (L // 2)], f"uint32x{L // 2}")
        if self.isa.f16c:
            return T.Cast(f"float32x{L}", T.reinterpret(f"float16x{L}", words))
        return self.isa.widen(T.reinterpret(f"uint16x{L}", words), L)


def make_matmul_blocks_int8(
    K: int, kind: BlockFormat, isa: Isa, *, residual: bool, bias: bool
) -> Any:
    """Weights in blocks × 8-bit activations; the N outputs are columns `first` … of C.

    Shapes: q (M, `quantized_words(K)`) int32; w as `blocks.matrix_words` for N outputs; b (C,)
    float32 if `bias`; r (M, C) float32 if `residual`; `first` int64; y (M, C) float32. K and N are
    multiples of 32. Without `bias` or `residual`, q is passed for b or r and not read.

    N, C and `first` are known only when it is called, so one kernel serves all matrices of a type
    with the same number of inputs.

    Args:
        K: The number of inputs.
        kind: The format of the weights.
        isa: The CPU's features.
        residual: Whether a residual is added.
        bias: Whether a bias is added.
    """
    G, R = K // 32, isa.int8_rows
    dot = DOTS[isa.dot]
    L = dot.lanes
    PARTS = 16 // L
    U, F = f"uint32x{L}", f"float32x{L}"
    read = _Reader(kind, K, isa, L)
    LINES, SPLIT, ZERO = kind.bits, 32 // kind.group, kind.zero
    wide = kind.bits == 8
    sum_dtype, sum_lanes = dot.sum_type(wide)
    SUMS = K // 4 + K // 16

    def partial(buffer: Any, i: Any) -> Any:
        return buffer.vload([i, 0], f"{sum_dtype}x{sum_lanes}")

    def sum_of(Q: Any, m: Any, g: Any, h: Any) -> Any:
        """Σ q over the inputs of one group of weights."""
        if SPLIT == 2:
            return Q[m, SUMS + g * 2 + h]
        return Q[m, SUMS + g * 2] + Q[m, SUMS + g * 2 + 1]

    def offset(Q: Any, m: Any, g: Any, h: Any) -> Any:
        return sum_of(Q, m, g, h) * T.int32(-ZERO) if ZERO else T.int32(0)

    def of_lanes(value: Any) -> Any:
        return T.broadcast(value, L)

    def scaled(Q: Any, m: Any, g: Any, h: Any, d: Any, s: Any, least: Any, x: Any, y: Any) -> Any:
        if least is None:
            return isa.mul_add(d, s * x, y, L)
        shift = least * of_lanes(T.Cast("float32", sum_of(Q, m, g, h)))
        return isa.mul_add(isa.mul_add(s, d, of_lanes(T.float32(0)) - shift, L), x, y, L)

    def added(value: Any, B: Any, RES: Any, m: Any, n: Any) -> Any:
        if bias:
            value = value + B.vload([n], F)
        return value + RES.vload([m, n], F) if residual else value

    @T.inline
    def half(Q, W, acc, total, nb, part, row, g, h, ROWS):
        """Add half h of group g, or the whole group."""
        for r in T.unroll(ROWS):
            total.vstore([r, 0], dot.start(offset(Q, row + r, g, h), wide))
        if wide:
            for j in T.unroll(8 // SPLIT):
                word: T.let = W.vload([nb, (g * 8 + h * (8 // SPLIT) + j) * 16 + part * L], U)
                for r in T.unroll(ROWS):
                    x: T.let = Q[row + r, g * 8 + h * (8 // SPLIT) + j]
                    total.vstore([r, 0], dot.add(partial(total, r), word, x, True))
        else:
            for j in T.unroll(4 // SPLIT):
                at: T.let = h * (4 // SPLIT) + j
                word: T.let = W.vload([nb, (g * 4 + at) * 16 + part * L], U)
                even: T.let = T.bitwise_and(word, T.broadcast(T.uint32(_NIBBLES), L))
                odd: T.let = T.bitwise_and(
                    T.shift_right(word, T.broadcast(T.uint32(4), L)),
                    T.broadcast(T.uint32(_NIBBLES), L),
                )
                for r in T.unroll(ROWS):
                    with_even: T.let = dot.add(partial(total, r), even, Q[row + r, g * 8 + at * 2])
                    total.vstore([r, 0], dot.add(with_even, odd, Q[row + r, g * 8 + at * 2 + 1]))
        s: T.let = read.scale(W, nb, part, g * SPLIT + h)
        if kind.minima:
            least: T.let = read.minimum(W, nb, part, g * SPLIT + h)
            for r in T.unroll(ROWS):
                d: T.let = T.Cast(F, dot.finish(partial(total, r), offset(Q, row + r, g, h), wide))
                scale: T.let = T.broadcast(T.reinterpret("float32", Q[row + r, K // 4 + g]), L)
                acc.vstore(
                    [r, 0], scaled(Q, row + r, g, h, d, s, least, scale, acc.vload([r, 0], F))
                )
        else:
            for r in T.unroll(ROWS):
                d: T.let = T.Cast(F, dot.finish(partial(total, r), offset(Q, row + r, g, h), wide))
                scale: T.let = T.broadcast(T.reinterpret("float32", Q[row + r, K // 4 + g]), L)
                acc.vstore(
                    [r, 0], scaled(Q, row + r, g, h, d, s, None, scale, acc.vload([r, 0], F))
                )

    @T.inline
    def tile(Q, W, B, RES, Y, first, nb, part, row, ROWS):
        """Compute rows row … row + ROWS - 1 of lanes part · L … of block nb."""
        with T.sblock("tile"):
            T.reads()
            T.writes()
            acc = in_registers((ROWS, L))
            total = in_registers((ROWS, sum_lanes), sum_dtype)
            for r in T.unroll(ROWS):
                acc.vstore([r, 0], of_lanes(T.float32(0)))
            for g in T.serial(G):
                if ROWS == 1:
                    for j in T.unroll(LINES):
                        prefetch(W, [nb, (g * LINES + j + AHEAD) * 16])
                elif row == 0:
                    for j in T.unroll(LINES):
                        prefetch(W, [nb + 1, (g * LINES + j) * 16])
                half(Q, W, acc, total, nb, part, row, g, 0, ROWS)
                if SPLIT == 2:
                    half(Q, W, acc, total, nb, part, row, g, 1, ROWS)
            for r in T.unroll(ROWS):
                n: T.let = first + nb * 16 + part * L
                Y.vstore([row + r, n], added(acc.vload([r, 0], F), B, RES, row + r, n))

    @T.prim_func(s_tir=True)
    def matmul(q: T.handle, w: T.handle, b: T.handle, r: T.handle, first: T.int64, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        NB = T.int64()
        C = T.int64()
        b0 = T.int64()
        b1 = T.int64()
        r0 = T.int64()
        r1 = T.int64()
        Q = T.match_buffer(q, (M, quantized_words(K)), "int32")
        W = T.match_buffer(w, (NB, read.at.words), "uint32")
        B = T.match_buffer(b, (C,) if bias else (b0, b1), "float32" if bias else "int32")
        RES = T.match_buffer(
            r, (M, C) if residual else (r0, r1), "float32" if residual else "int32"
        )
        Y = T.match_buffer(y, (M, C), "float32")
        for nb in T.parallel(NB):
            for part in T.serial(PARTS):
                for t in T.serial(M // R):
                    tile(Q, W, B, RES, Y, first, nb, part, t * R, R)
                if M % R >= R // 2:
                    tile(Q, W, B, RES, Y, first, nb, part, M // R * R, R // 2)
                for t in T.serial(M % (R // 2)):
                    tile(Q, W, B, RES, Y, first, nb, part, M // (R // 2) * (R // 2) + t, 1)

    return matmul.with_attr("global_symbol", _name("int8_", kind, K, bias, residual))


def _name(how: str, kind: BlockFormat, K: int, bias: bool, residual: bool) -> str:
    name = f"matmul_{how}{kind.name}_{K}"
    return name + ("_bias" if bias else "") + ("_residual" if residual else "")


def make_matmul_blocks(K: int, kind: BlockFormat, isa: Isa, *, residual: bool, bias: bool) -> Any:
    """Weights in blocks × float32 activations; the N outputs are columns `first` … of C.

    Shapes: x (M, K) float32; w as `blocks.matrix_words` for N outputs; b (C,) float32 if `bias`; r
    (M, C) float32 if `residual`; `first` int64; y (M, C) float32. K and N are multiples of 32.
    Without `bias` or `residual`, x is passed for b or r and not read. For the arguments, see
    `make_matmul_blocks_int8`.
    """
    G, R = K // 32, isa.matmul_rows
    read = _Reader(kind, K, isa)
    LINES, PER_WORD, SPLIT = kind.bits, max(1, 32 // kind.bits), 32 // kind.group

    def place(word: int, i: int) -> int:
        """The input of a group that is code i of a word."""
        return word // 2 * 8 + 2 * i + word % 2 if kind.bits == 8 else word * 8 + i

    def weight(word: Any, i: int, s: Any, least: Any) -> Any:
        return isa.mul_add(s, code(word, i, kind.bits, kind.zero), splat(0.0) - least)

    def added(value: Any, B: Any, RES: Any, m: Any, n: Any) -> Any:
        if bias:
            value = value + B.vload([n], F32)
        return value + RES.vload([m, n], F32) if residual else value

    def second(first: Any, ROWS: int) -> Any:
        """The sums of the other chain; one buffer for both would not be kept in registers."""
        return in_registers((ROWS, 16)) if isa.chains == 2 else first

    def both(even: Any, odd: Any, r: Any) -> Any:
        sums = even.vload([r, 0], F32)
        return sums + odd.vload([r, 0], F32) if isa.chains == 2 else sums

    @T.inline
    def word_of(X, W, even, odd, nb, g, j, s, least, row, ROWS):
        word: T.let = W.vload([nb, (g * LINES + j) * 16], U32)
        for i in T.unroll(PER_WORD // 2):
            w: T.let = weight(word, i * 2, s, least)
            for r in T.unroll(ROWS):
                x: T.let = splat(X[row + r, g * 32 + place(j, i * 2)])
                even.vstore([r, 0], isa.mul_add(w, x, even.vload([r, 0], F32)))
            w2: T.let = weight(word, i * 2 + 1, s, least)
            for r in T.unroll(ROWS):
                x2: T.let = splat(X[row + r, g * 32 + place(j, i * 2 + 1)])
                odd.vstore([r, 0], isa.mul_add(w2, x2, odd.vload([r, 0], F32)))

    @T.inline
    def coded_of(X, W, even, odd, nb, g, row, ROWS):
        for h in T.unroll(SPLIT):
            s: T.let = read.scale(W, nb, 0, g * SPLIT + h)
            if kind.minima:
                least: T.let = read.minimum(W, nb, 0, g * SPLIT + h)
                for j in T.unroll(LINES // SPLIT):
                    word_of(X, W, even, odd, nb, g, h * (LINES // SPLIT) + j, s, least, row, ROWS)
            else:
                for j in T.unroll(LINES // SPLIT):
                    at: T.let = h * (LINES // SPLIT) + j
                    word_of(X, W, even, odd, nb, g, at, s, splat(0.0), row, ROWS)

    @T.inline
    def floats_of(X, W, even, odd, nb, g, row, ROWS):
        for k in T.unroll(16):
            w: T.let = read.float(W, nb, g * 32 + k * 2)
            for r in T.unroll(ROWS):
                x: T.let = splat(X[row + r, g * 32 + k * 2])
                even.vstore([r, 0], isa.mul_add(w, x, even.vload([r, 0], F32)))
            w2: T.let = read.float(W, nb, g * 32 + k * 2 + 1)
            for r in T.unroll(ROWS):
                x2: T.let = splat(X[row + r, g * 32 + k * 2 + 1])
                odd.vstore([r, 0], isa.mul_add(w2, x2, odd.vload([r, 0], F32)))

    @T.inline
    def block(X, W, B, RES, Y, first, nb, row, ROWS):
        with T.sblock("rows"):
            T.reads()
            T.writes()
            acc = in_registers((ROWS, 16))
            even = in_registers((ROWS, 16))
            odd = second(even, ROWS)
            for r in T.unroll(ROWS):
                acc.vstore([r, 0], splat(0.0))
            for g in T.serial(G):
                if ROWS == 1:
                    for j in T.unroll(LINES):
                        prefetch(W, [nb, (g * LINES + j + AHEAD) * 16])
                elif row == 0:
                    for j in T.unroll(LINES):
                        prefetch(W, [nb + 1, (g * LINES + j) * 16])
                for r in T.unroll(ROWS):
                    even.vstore([r, 0], splat(0.0))
                    odd.vstore([r, 0], splat(0.0))
                if kind.coded:
                    coded_of(X, W, even, odd, nb, g, row, ROWS)
                else:
                    floats_of(X, W, even, odd, nb, g, row, ROWS)
                for r in T.unroll(ROWS):
                    acc.vstore([r, 0], both(even, odd, r) + acc.vload([r, 0], F32))
            for r in T.unroll(ROWS):
                n: T.let = first + nb * 16
                Y.vstore([row + r, n], added(acc.vload([r, 0], F32), B, RES, row + r, n))

    @T.inline
    def leftover(X, W, B, RES, Y, first, nb, M, rows):
        # At most one tile of `rows` is left after all tiles of twice as many rows.
        if rows < R:  # noqa: SIM102 - known when the kernel is made
            if M % (2 * rows) >= rows:
                block(X, W, B, RES, Y, first, nb, M // (2 * rows) * (2 * rows), rows)

    @T.prim_func(s_tir=True)
    def matmul(x: T.handle, w: T.handle, b: T.handle, r: T.handle, first: T.int64, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        M = T.int64()
        NB = T.int64()
        C = T.int64()
        b0 = T.int64()
        b1 = T.int64()
        r0 = T.int64()
        r1 = T.int64()
        X = T.match_buffer(x, (M, K), "float32")
        W = T.match_buffer(w, (NB, read.at.words), "uint32")
        B = T.match_buffer(b, (C,) if bias else (b0, b1), "float32")
        RES = T.match_buffer(r, (M, C) if residual else (r0, r1), "float32")
        Y = T.match_buffer(y, (M, C), "float32")
        for nb in T.parallel(NB):
            for t in T.serial(M // R):
                block(X, W, B, RES, Y, first, nb, t * R, R)
            leftover(X, W, B, RES, Y, first, nb, M, 8)
            leftover(X, W, B, RES, Y, first, nb, M, 4)
            leftover(X, W, B, RES, Y, first, nb, M, 2)
            leftover(X, W, B, RES, Y, first, nb, M, 1)

    return matmul.with_attr("global_symbol", _name("", kind, K, bias, residual))


def make_embedding_blocks(H: int, kind: BlockFormat, isa: Isa) -> Any:
    """Gather rows of weights in blocks.

    Shapes: ids (n,) int32 below V; w as `blocks.matrix_words` for V outputs of H inputs; y (n, H)
    float32. H is a padded size. Each weight is rounded once, as in the file's definition.
    """
    read = _Reader(kind, H, isa)
    per_word = 32 // kind.bits if kind.coded else 1

    def word_and_place(k: Any) -> tuple[Any, Any]:
        """The word of a lane that has input k, and the place in the word."""
        if kind.bits == 8:  # pairs of words: 0 2 4 6 and 1 3 5 7 of eight
            return k // 8 * 2 + k % 2, k % 8 // 2
        return k // per_word, k % per_word

    def code_of(W: Any, nb: Any, lane: Any, k: Any) -> Any:
        word, place = word_and_place(k)
        shifted = T.shift_right(W[nb, word * 16 + lane], T.Cast("uint32", place * kind.bits))
        return T.bitwise_and(shifted, T.uint32((1 << kind.bits) - 1))

    @T.inline
    def coded_row(W, Y, i, nb, lane):
        scale = in_registers((16,))
        least = in_registers((16,))
        least.vstore([0], splat(0.0))
        for g in T.serial(H // kind.group):
            scale.vstore([0], read.scale(W, nb, 0, g))
            if kind.minima:
                least.vstore([0], read.minimum(W, nb, 0, g))
            for k in T.serial(kind.group):
                number: T.let = T.Cast("float32", code_of(W, nb, lane, g * kind.group + k))
                Y[i, g * kind.group + k] = (number - T.float32(kind.zero)) * scale[lane] - least[
                    lane
                ]

    @T.inline
    def float_row(W, Y, i, nb, lane):
        lanes = in_registers((16,))
        for k in T.serial(H):
            lanes.vstore([0], read.float(W, nb, k))
            Y[i, k] = lanes[lane]

    @T.prim_func(s_tir=True)
    def embedding(ids: T.handle, w: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        n = T.int64()
        NB = T.int64()
        IDS = T.match_buffer(ids, (n,), "int32")
        W = T.match_buffer(w, (NB, read.at.words), "uint32")
        Y = T.match_buffer(y, (n, H), "float32")
        for i in T.serial(n):
            with T.sblock("row"):
                T.reads()
                T.writes()
                nb: T.let = IDS[i] // 16
                lane: T.let = IDS[i] % 16
                if kind.coded:
                    coded_row(W, Y, i, nb, lane)
                else:
                    float_row(W, Y, i, nb, lane)

    return embedding.with_attr("global_symbol", f"embedding_{kind.name}_{H}")
