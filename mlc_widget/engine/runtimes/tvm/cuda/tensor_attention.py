# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-redef"
"""Paged attention on tensor cores, with the pages and queries that `tensor_rope` writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from mlc_widget.engine.runtimes.tvm.cuda.intrinsics import (
    WARP,
    arrive,
    await_inputs,
    capped,
    fetch8,
    fetch16,
    fetch_int,
    joined_parts,
    mma,
    multiplied_added,
    named,
    pack2,
    prefetch,
    product,
    shuffle_xor,
    start_next,
)
from mlc_widget.engine.runtimes.tvm.cuda.parts import heads_of
from mlc_widget.engine.runtimes.tvm.kernels.isa import LOG2E, pad
from mlc_widget.engine.runtimes.tvm.layouts import PAGE

PAGES_OF_A_WARP = 8
"""The number of pages of each part of the keys that one warp takes."""

MOST_DIMS = 256
"""The largest dimension of a head; of more, a thread's registers cannot hold the output."""


def blocks_of(HQ: int, HKV: int) -> int:
    """The number of blocks of a tile."""
    group = HQ // HKV
    return HKV * -(-group // heads_of(group))


def warps_of(D: int) -> int:
    """The number of warps of a block, such that their results fit in its memory."""
    return 16 if D <= 64 else 8


def threads_of(D: int) -> int:
    """The number of threads of a block."""
    return warps_of(D) * WARP


def pages_of_a_part(D: int) -> int:
    """The number of pages of a part of the keys, which are cut at its multiples."""
    return warps_of(D) * PAGES_OF_A_WARP


def chunks_at_once(D: int) -> int:
    """How many chunks of 16 dimensions of a page a warp loads before it uses them."""
    chunks = D // 16
    return chunks if D <= 128 else max(n for n in (1, 2, 3, 4) if chunks % n == 0)


def make_tile(
    HQ: int,
    HKV: int,
    D: int,
    window: int | None,
    cap: float | None,
    append: Callable[..., Any] | None = None,
) -> Any:
    """``tile_of(Q, KP, VP, POS, PT, TILE, ENDED, Y, PARTIAL, layer, bt, by, tx)``.

    That is attention of rows over pages, in a block (bt, by) for each tile and key head (or 16 of
    its query heads). With `append`, it is ``tile_of(QKV, COS, SIN, SLOT, C, KP, …)``: each tile is
    one row with all its parts, and `append` makes a block's queries in shared memory, and key and
    value in their pages; it is called before the previous kernel has ended.

    A tile's rows and heads are 16 slots s = row · heads + head. The keys are cut into parts at
    multiples of `pages_of_a_part`. Of a part, warp w takes pages w, w + WARPS, … ascending; the
    keys of the next are on their way while it works on one. For them it keeps each slot's running
    maximum m, sum l of 2 ^ (score - m), and output o:

        score   the sum over dimensions, 16 at a time ascending, one mma after the other, from 0;
                then the soft cap, if there is one
        l       the sum of 2 ^ (score - m) lane by lane, for 4 tokens of a page each; at the end a
                tree over the four lanes of a slot
        o       + weights (rounded to float16) · values, a page's 16 tokens in one mma

    At the end of a part, l and o are summed over the warps, ascending, relative to the largest m;
    then the parts are joined one by one, ascending (`join`). A page or part without tokens of a
    slot does not change it, so slots do not depend on each other.

    A tile has all parts of up to `rows_of` rows. Or it has one part of one row, and there are tiles
    of all its parts, one after the other: the last of their blocks that ends joins them, in the
    same order. So the bits are the same.

    Shapes as the CPU's `make_attention`: q (n, HQ D) float16, y (n, pad(HQ D)) float16, tile
    (tiles, 3) of first row, count and sequence, or row, minus the number of the part and sequence.
    A tile with a part that its row does not have is ignored. `ended` (n, `blocks_of`) int32 is 0
    before, and counts the blocks that have ended; `partial` (tiles, HQ, D + 2) float32 is where
    they leave o, m and l.
    """
    G = HQ // HKV
    HEADS = heads_of(G)
    PARTS = -(-G // HEADS)
    WARPS = warps_of(D)
    PART = pages_of_a_part(D)
    CHUNKS, ONCE = D // 16, chunks_at_once(D)
    OUT = D // 2  # the number of values of the output in a lane
    DIMS = OUT // 2  # and of each of its two slots
    PASSES = -(-DIMS // 32)  # in which the warps' outputs go through the shared memory
    PASSED = -(-DIMS // PASSES)
    OWN = -(-PASSED // WARPS)  # the number that each warp sums, for all
    JOINED = PASSES * OWN * 2
    EACH = 2 * PASSED + 4
    LAST = WARPS * EACH  # where it is noted whether this block was the last of a row to end
    PADDING = pad(HQ * D) - HQ * D
    LINE = 64  # numbers of a line of a cache
    NONE = -1e30

    def visible(key: Any, pos: Any) -> Any:
        if window is None:
            return key <= pos
        return T.And(key <= pos, key > pos - window)

    @T.inline
    def queries(Q, q, both, kt, half, row, head, j, valid):
        """Load A's words for 16 dimensions of a slot."""
        both[0] = T.uint32(0)
        both[1] = T.uint32(0)
        if valid:
            T.evaluate(fetch8(both, 0, T.address_of(Q[row, head * D + kt * 16 + j * 4])))
        q[kt * 4 + half] = both[0]
        q[kt * 4 + half + 2] = both[1]

    @T.inline
    def soften(s, o, top, most, total, half, key, pos):
        """Turn a page's scores into weights of a slot, and rescale its results so far."""
        most[0] = top[half]
        for i in T.unroll(4):
            if visible(key + i // 2 * 8 + i % 2, pos):
                most[0] = T.max(most[0], s[i // 2 * 4 + half * 2 + i % 2])
        most[0] = T.max(most[0], shuffle_xor(most[0], 1))
        most[0] = T.max(most[0], shuffle_xor(most[0], 2))
        shrink: T.let = T.exp2(top[half] - most[0])
        top[half] = most[0]
        for i in T.unroll(4):
            if visible(key + i // 2 * 8 + i % 2, pos):
                s[i // 2 * 4 + half * 2 + i % 2] = T.exp2(
                    s[i // 2 * 4 + half * 2 + i % 2] - most[0]
                )
            else:
                s[i // 2 * 4 + half * 2 + i % 2] = T.float32(0)
        total[half] = total[half] * shrink + (
            (s[half * 2] + s[half * 2 + 1]) + (s[4 + half * 2] + s[4 + half * 2 + 1])
        )
        for d in T.unroll(OUT // 2):
            o[d // 2 * 4 + half * 2 + d % 2] = o[d // 2 * 4 + half * 2 + d % 2] * shrink

    @T.inline
    def load(PAGES, words, layer, h, page, lane, first):
        """Load the lane's words of chunks first … first + ONCE - 1 of a page."""
        for c in T.unroll(ONCE):
            at: T.let = ((first + c) * WARP + lane) * 8
            row: T.let = at // PAGES.shape[4]
            T.evaluate(
                fetch16(words, c * 4, T.address_of(PAGES[page, layer, h, row, at % PAGES.shape[4]]))
            )

    @T.inline
    def prefetch_page(KP, VP, layer, h, page, lane):
        """Have a page's keys and values brought into the L2 cache."""
        for i in T.unroll(-(-D * PAGE // (WARP * LINE))):
            at: T.let = (i * WARP + lane) * LINE
            if at < D * PAGE:
                T.evaluate(prefetch(T.address_of(KP[page, layer, h, at // PAGE, at % PAGE])))
                T.evaluate(prefetch(T.address_of(VP[page, layer, h, at // D, at % D])))

    @T.inline
    def page_of(
        KP, VP, q, k, next_k, v, s, a, o, top, most, total, layer, h, page, then, more, lane, key,
        pos,
    ):  # fmt: skip
        """Attend to a page; its keys are there, and those of page `then` are loaded if `more`.

        With large heads, whose keys do not fit twice, they are loaded here, part by part.
        """
        for i in T.unroll(8):
            s[i] = T.float32(0)
        if ONCE == CHUNKS:  # what is needed next is under way before it is needed
            load(VP, v, layer, h, page, lane, 0)
            if more:
                load(KP, next_k, layer, h, then, lane, 0)
        for part in T.unroll(CHUNKS // ONCE):
            if ONCE < CHUNKS:
                load(KP, k, layer, h, page, lane, part * ONCE)
            for c in T.unroll(ONCE):
                T.evaluate(mma(s, 0, q, (part * ONCE + c) * 4, k, c * 4))
                T.evaluate(mma(s, 4, q, (part * ONCE + c) * 4, k, c * 4 + 2))
        if cap is not None:
            for i in T.unroll(8):
                s[i] = capped(s[i], cap * LOG2E)
        soften(s, o, top, most, total, 0, key, pos[0])
        soften(s, o, top, most, total, 1, key, pos[1])
        for i in T.unroll(4):
            a[i] = pack2(s[i * 2], s[i * 2 + 1])
        for part in T.unroll(CHUNKS // ONCE):
            if ONCE < CHUNKS:
                load(VP, v, layer, h, page, lane, part * ONCE)
            for c in T.unroll(ONCE):
                T.evaluate(mma(o, (part * ONCE + c) * 8, a, 0, v, c * 4))
                T.evaluate(mma(o, (part * ONCE + c) * 8 + 4, a, 0, v, c * 4 + 2))

    @T.inline
    def join(top, total, mine, other, i, part_top, part_total):
        """Join a part with those before it, and get the factors of their outputs."""
        most: T.let = T.max(top[i], part_top)
        mine[i] = T.exp2(top[i] - most)
        other[i] = T.exp2(part_top - most)
        top[i] = most
        total[i] = multiplied_added(total[i], mine[i], product(part_total, other[i]))

    @T.inline
    def end_part(
        room, o, top, most, total, weight, part_total, joined, joined_top, joined_total, mine,
        other, warp, lane,
    ):  # fmt: skip
        """Sum a part over the warps, and join it with those before it."""
        for i in T.unroll(2):
            total[i] = total[i] + shuffle_xor(total[i], 1)
            total[i] = total[i] + shuffle_xor(total[i], 2)
        for turn in T.unroll(PASSES):
            T.evaluate(T.tvm_storage_sync("shared.dyn"))
            for d in T.unroll(PASSED):
                if turn * PASSED + d < DIMS:
                    for i in T.unroll(2):
                        room[warp * EACH + d * 2 + i, lane] = o[
                            (turn * PASSED + d) // 2 * 4 + i * 2 + (turn * PASSED + d) % 2
                        ]
            for i in T.unroll(2):
                room[warp * EACH + 2 * PASSED + i, lane] = top[i]
                room[warp * EACH + 2 * PASSED + 2 + i, lane] = total[i]
            T.evaluate(T.tvm_storage_sync("shared.dyn"))
            if turn == 0:
                for i in T.unroll(2):
                    most[0] = room[2 * PASSED + i, lane]
                    for w in T.unroll(WARPS - 1):
                        most[0] = T.max(most[0], room[(w + 1) * EACH + 2 * PASSED + i, lane])
                    part_total[0] = T.float32(0)
                    for w in T.unroll(WARPS):
                        weight[w * 2 + i] = T.exp2(room[w * EACH + 2 * PASSED + i, lane] - most[0])
                        part_total[0] = multiplied_added(
                            room[w * EACH + 2 * PASSED + 2 + i, lane],
                            weight[w * 2 + i],
                            part_total[0],
                        )
                    join(joined_top, joined_total, mine, other, i, most[0], part_total[0])
            for own in T.unroll(OWN):
                d: T.let = warp * OWN + own
                if d < PASSED and turn * PASSED + d < DIMS:
                    for i in T.unroll(2):
                        part_total[0] = T.float32(0)
                        for w in T.unroll(WARPS):
                            part_total[0] = multiplied_added(
                                room[w * EACH + d * 2 + i, lane],
                                weight[w * 2 + i],
                                part_total[0],
                            )
                        joined[(turn * OWN + own) * 2 + i] = multiplied_added(
                            joined[(turn * OWN + own) * 2 + i],
                            mine[i],
                            product(part_total[0], other[i]),
                        )
        for i in T.unroll(2):
            top[i] = T.float32(NONE)
            total[i] = T.float32(0)
        for d in T.unroll(OUT):
            o[d] = T.float32(0)

    @T.inline
    def store(Y, PARTIAL, joined, joined_top, joined_total, whole, bt, row, head, i, warp, lane, j):
        """Write the result of a slot of a whole tile, or of a part."""
        for turn in T.unroll(PASSES):
            for own in T.unroll(OWN):
                at: T.let = warp * OWN + own
                d: T.let = turn * PASSED + at
                if at < PASSED and d < DIMS:
                    found: T.let = joined[(turn * OWN + own) * 2 + i]
                    dim: T.let = d // 2 * 8 + 2 * j + d % 2
                    if whole:
                        Y[row, head * D + dim] = T.Cast("float16", found / joined_total[i])
                    else:
                        PARTIAL[bt, head, dim] = found
        if T.And(T.Not(whole), T.And(warp == 0, j == 0)):
            PARTIAL[bt, head, D] = joined_top[i]
            PARTIAL[bt, head, D + 1] = joined_total[i]

    @T.inline
    def join_parts(PARTIAL, Y, both, first, count, row, head, d):
        """Join all parts of a row, for two dimensions of a head."""
        T.evaluate(
            joined_parts(both, T.address_of(PARTIAL[first, head, 0]), count, HQ * (D + 2), D, d)
        )
        Y[row, head * D + d] = T.Cast("float16", both[0])
        Y[row, head * D + d + 1] = T.Cast("float16", both[1])

    @T.inline
    def own_queries(own, q, kt, half, head, j, valid):
        """Like `queries`, for those that the block has itself."""
        for v in T.unroll(2):
            q[kt * 4 + half + 2 * v] = T.uint32(0)
            if valid:
                q[kt * 4 + half + 2 * v] = own[(head * D + kt * 16 + j * 4) // 2 + v]

    @T.inline
    def tile_of(
        QKV, COS, SIN, SLOT, C, KP, VP, POS, PT, TILE, ENDED, Y, PARTIAL, layer, bt, by, tx,
    ):  # fmt: skip
        with T.sblock("attention"):
            T.reads()
            T.writes()
            words = T.sblock_alloc_buffer((CHUNKS * 4,), "uint32", scope="local")
            keys = T.sblock_alloc_buffer((ONCE * 4,), "uint32", scope="local")
            next_keys = T.sblock_alloc_buffer((ONCE * 4,), "uint32", scope="local")
            values = T.sblock_alloc_buffer((ONCE * 4,), "uint32", scope="local")
            numbers = T.sblock_alloc_buffer((2,), "int32", scope="local")
            both = T.sblock_alloc_buffer((2,), "uint32", scope="local")
            a = T.sblock_alloc_buffer((4,), "uint32", scope="local")
            s = T.sblock_alloc_buffer((8,), "float32", scope="local")
            o = T.sblock_alloc_buffer((OUT,), "float32", scope="local")
            top = T.sblock_alloc_buffer((2,), "float32", scope="local")
            total = T.sblock_alloc_buffer((2,), "float32", scope="local")
            most = T.sblock_alloc_buffer((1,), "float32", scope="local")
            pos = T.sblock_alloc_buffer((2,), "int32", scope="local")
            weight = T.sblock_alloc_buffer((WARPS * 2,), "float32", scope="local")
            part_total = T.sblock_alloc_buffer((1,), "float32", scope="local")
            joined = T.sblock_alloc_buffer((JOINED,), "float32", scope="local")
            joined_top = T.sblock_alloc_buffer((2,), "float32", scope="local")
            joined_total = T.sblock_alloc_buffer((2,), "float32", scope="local")
            mine = T.sblock_alloc_buffer((2,), "float32", scope="local")
            other = T.sblock_alloc_buffer((2,), "float32", scope="local")
            # More than 48 KiB can only be dynamic shared memory.
            room = T.sblock_alloc_buffer((WARPS * EACH + 1, WARP), "float32", scope="shared.dyn")
            # What the kernels before do not make comes while they run.
            first: T.let = fetch_int(T.address_of(TILE[bt, 0]))
            code: T.let = fetch_int(T.address_of(TILE[bt, 1]))
            seq: T.let = fetch_int(T.address_of(TILE[bt, 2]))
            count: T.let = T.max(code, 1)
            lane: T.let = T.Cast("int32", tx % WARP)
            warp: T.let = T.Cast("int32", tx // WARP)
            g: T.let = lane // 4
            j: T.let = lane % 4
            h: T.let = by // PARTS
            last_pos: T.let = fetch_int(T.address_of(POS[first + count - 1]))
            first_pos: T.let = fetch_int(T.address_of(POS[first]))
            pages: T.let = last_pos // PAGE + 1
            begin: T.let = (
                T.max(first_pos + 1 - window, 0) // PAGE if window is not None else T.int32(0)
            )
            first_part: T.let = begin // PART
            parts: T.let = (pages - 1) // PART + 1  # those before first_part included
            part: T.let = T.if_then_else(code > 0, first_part, 0 - code)
            after: T.let = T.if_then_else(
                code > 0,
                parts,
                T.if_then_else(part < first_part, part, T.min(parts, part + 1)),
            )
            # The warp's first page, and where the numbers of its next two are.
            low: T.let = T.max(begin, part * PART)
            end: T.let = T.min(pages, after * PART)
            start: T.let = low + (warp - low % WARPS + WARPS) % WARPS
            numbers[0] = fetch_int(T.address_of(PT[seq, T.min(start, pages - 1)]))
            numbers[1] = fetch_int(T.address_of(PT[seq, T.min(start + WARPS, pages - 1)]))
            for i in T.unroll(2):
                row: T.let = (g + 8 * i) // HEADS
                head: T.let = by % PARTS * HEADS + (g + 8 * i) % HEADS
                valid: T.let = T.And(row < count, head < G)
                pos[i] = T.int32(-1)
                if valid:
                    pos[i] = fetch_int(T.address_of(POS[first + row]))
            if append is None:
                T.evaluate(await_inputs())
                T.evaluate(start_next())
            else:
                for i in T.unroll(2):  # all but the new token's key and value are there
                    if start + i * WARPS < end:
                        prefetch_page(KP, VP, layer, h, numbers[i], lane)
                own = T.sblock_alloc_buffer((HEADS * D // 2,), "uint32", scope="shared")
                T.evaluate(
                    append(
                        own, QKV, COS, SIN, SLOT, KP, VP, layer, C, first, first_pos, h,
                        by % PARTS * HEADS,
                    )
                )  # fmt: skip
            for i in T.unroll(2):
                row: T.let = (g + 8 * i) // HEADS
                head: T.let = by % PARTS * HEADS + (g + 8 * i) % HEADS
                valid: T.let = T.And(row < count, head < G)
                for c in T.unroll(CHUNKS):
                    if append is None:
                        queries(QKV, words, both, c, i, first + row, h * G + head, j, valid)
                    else:
                        own_queries(own, words, c, i, head - by % PARTS * HEADS, j, valid)
                top[i] = T.float32(NONE)
                total[i] = T.float32(0)
                joined_top[i] = T.float32(NONE)
                joined_total[i] = T.float32(0)
            for d in T.unroll(OUT):
                o[d] = T.float32(0)
            for d in T.unroll(JOINED):
                joined[d] = T.float32(0)
            if ONCE == CHUNKS and start < end:
                load(KP, keys, layer, h, numbers[0], lane, 0)
            for joining in T.serial(T.max(after - part, 0)):
                # Of a number that the compiler does not know, as code that is unrolled
                # takes longer to load than to run.
                base: T.let = (part + joining) * PART
                for i in T.serial(T.min(PAGES_OF_A_WARP, (end - base + (WARPS - 1)) // WARPS)):
                    p: T.let = base + i * WARPS + warp
                    if p >= begin and p < end:
                        then: T.let = PT[seq, T.min(p + 2 * WARPS, pages - 1)]
                        page_of(
                            KP, VP, words, keys, next_keys, values, s, a, o, top, most,
                            total, layer, h, numbers[0], numbers[1], p + WARPS < end,
                            lane, p * PAGE + 2 * j, pos,
                        )  # fmt: skip
                        numbers[0] = numbers[1]
                        numbers[1] = then
                        if ONCE == CHUNKS:
                            for c in T.unroll(ONCE * 4):
                                keys[c] = next_keys[c]
                end_part(
                    room, o, top, most, total, weight, part_total, joined, joined_top,
                    joined_total, mine, other, warp, lane,
                )  # fmt: skip
            exists: T.let = part < after
            whole: T.let = T.And(exists, after - part == parts - first_part)
            if exists:
                for i in T.unroll(2):
                    row: T.let = (g + 8 * i) // HEADS
                    head: T.let = by % PARTS * HEADS + (g + 8 * i) % HEADS
                    if row < count and head < G:
                        store(
                            Y, PARTIAL, joined, joined_top, joined_total, whole, bt,
                            first + row, h * G + head, i, warp, lane, j,
                        )  # fmt: skip
                if by == 0 and tx < PADDING:
                    for i in T.serial(count):
                        Y[first + i, HQ * D + tx] = T.float16(0)
            if append is None:
                T.evaluate(T.tvm_storage_sync("shared.dyn"))
                if tx == 0:
                    room[LAST, 0] = T.float32(0)
                    if T.And(exists, T.Not(whole)):
                        before: T.let = arrive(T.address_of(ENDED[first, by]))
                        if before == parts - first_part - 1:
                            room[LAST, 0] = T.float32(1)
                T.evaluate(T.tvm_storage_sync("shared.dyn"))
                most[0] = room[LAST, 0]
                if most[0] > T.float32(0):
                    for e in T.serial(-(-HEADS * D // (2 * WARPS * WARP))):
                        at: T.let = (e * (WARPS * WARP) + T.Cast("int32", tx)) * 2
                        head: T.let = by % PARTS * HEADS + at // D
                        if at < HEADS * D and head < G:
                            join_parts(
                                PARTIAL, Y, mine, bt - part + first_part,
                                parts - first_part, first, h * G + head, at % D,
                            )  # fmt: skip

    if append is not None:
        return tile_of

    @T.inline
    def tile_of_queries(Q, KP, VP, POS, PT, TILE, ENDED, Y, PARTIAL, layer, bt, by, tx):
        """With Q also in the places of what only `append` reads, as buffers cannot be left out."""
        tile_of(Q, Q, Q, Q, 0, KP, VP, POS, PT, TILE, ENDED, Y, PARTIAL, layer, bt, by, tx)

    return tile_of_queries


def make_tensor_attention(
    HQ: int,
    HKV: int,
    D: int,
    window: int | None,
    *,
    cap: float | None = None,
    overlapped: bool = False,
) -> Any:
    """A PrimFunc (q, pages, …, y, partial) of `make_tile`."""
    tile_of, BLOCKS, THREADS = make_tile(HQ, HKV, D, window, cap), blocks_of(HQ, HKV), threads_of(D)

    @T.prim_func(s_tir=True)
    def attention(
        q: T.handle,
        k_pages: T.handle,
        v_pages: T.handle,
        position: T.handle,
        page_table: T.handle,
        tile: T.handle,
        ended: T.handle,
        layer: T.int64,
        y: T.handle,
        partial: T.handle,
    ):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True})
        n = T.int64()
        LAYERS = T.int64()
        PAGES = T.int64()
        SEQUENCES = T.int64()
        max_pages = T.int64()
        tiles = T.int64()
        Q = T.match_buffer(q, (n, HQ * D), "float16")
        KP = T.match_buffer(k_pages, (PAGES, LAYERS, HKV, D, PAGE), "float16")
        VP = T.match_buffer(v_pages, (PAGES, LAYERS, HKV, PAGE, D), "float16")
        POS = T.match_buffer(position, (n,), "int32")
        PT = T.match_buffer(page_table, (SEQUENCES, max_pages), "int32")
        TILE = T.match_buffer(tile, (tiles, 3), "int32")
        ENDED = T.match_buffer(ended, (n, BLOCKS), "int32")
        Y = T.match_buffer(y, (n, pad(HQ * D)), "float16")
        PARTIAL = T.match_buffer(partial, (tiles, HQ, D + 2), "float32")
        for bt in T.thread_binding(tiles, thread="blockIdx.x"):
            for by in T.thread_binding(BLOCKS, thread="blockIdx.y"):
                for tx in T.thread_binding(THREADS, thread="threadIdx.x"):
                    tile_of(Q, KP, VP, POS, PT, TILE, ENDED, Y, PARTIAL, layer, bt, by, tx)

    name = f"tensor_attention_{HQ}_{HKV}_{D}_{window or 0}" + ("" if cap is None else "_capped")
    return named(attention, name, overlapped=overlapped)
