"""Attention on a GPU by tiles that are cut into parts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from mlc_widget.engine.runtimes.tvm.cuda import target as cuda
from mlc_widget.engine.runtimes.tvm.cuda.compiler import install
from mlc_widget.engine.runtimes.tvm.cuda.parts import NO_TILE, cut_tiles, rows_of, sizes
from mlc_widget.engine.runtimes.tvm.kernels.rope import Rotation
from mlc_widget.engine.runtimes.tvm.layouts import PAGE, pad

from .conftest import needs_gpu


def tiles_of(*tiles):
    return np.array(tiles, np.int32).reshape(-1, 3)


def test_tiles_of_short_contexts_stay_whole():
    tiles = tiles_of((0, 1, 0), (1, 1, 1))
    assert cut_tiles(tiles, np.array([63, 5], np.int32), 64, 8) is tiles


def test_a_long_context_has_a_tile_for_each_part():
    tiles = tiles_of((0, 1, 0), (1, 1, 1), (2, 1, 2))
    cut = cut_tiles(tiles, np.array([5, 64 * 2 + 1, 64], np.int32), 64, 8)
    assert cut.tolist() == [[0, 1, 0], [1, 0, 1], [1, -1, 1], [1, -2, 1], [2, 0, 2], [2, -1, 2]]


def test_tiles_without_room_stay_whole():
    tiles = tiles_of((0, 1, 0), (1, 1, 1), (2, 1, 2))
    position = np.array([64, 64 * 5, 64], np.int32)
    cut = cut_tiles(tiles, position, 64, 5)
    assert cut.tolist() == [[0, 0, 0], [0, -1, 0], *tiles.tolist()[1:]]
    assert len(cut_tiles(tiles, position, 64, 10)) == 10


def test_the_rows_of_a_few_long_tiles_are_cut_apart():
    position = np.array([63, 64, 65, 3], np.int32)
    cut = cut_tiles(tiles_of((0, 3, 0), (3, 1, 1)), position, 64, 8)
    assert cut.tolist() == [[0, 1, 0], [1, 0, 0], [1, -1, 0], [2, 0, 0], [2, -1, 0], [3, 1, 1]]
    many = tiles_of((0, 40, 0))
    assert cut_tiles(many, np.arange(40, 80, dtype=np.int32), 64, 128).tolist() == many.tolist()


def test_tiles_of_a_step_of_few_rows_are_cut_to_what_its_blocks_take():
    tiles = tiles_of((0, 8, 0), (8, 5, 1), (13, 2, 2))
    cut = cut_tiles(tiles, np.arange(15, dtype=np.int32), 64, 32, 4)
    assert cut.tolist() == [[0, 4, 0], [4, 4, 0], [8, 4, 1], [12, 1, 1], [13, 2, 2]]
    many = tiles_of(*((8 * i, 8, 0) for i in range(5)))
    assert cut_tiles(many, np.arange(40, dtype=np.int32), 64, 64, 4) is many


@pytest.mark.parametrize(("rows", "most"), [(1, 256), (3, 512), (32, 512), (32, 32)])
def test_sizes_of_decode_steps_leave_little_unused(rows, most):
    found = sizes(rows, most)
    assert (found[0], found[-1]) == (rows, most)
    assert found == sorted(set(found))
    assert all(b <= (1.5 if a > rows * 2 else 2) * a for a, b in pairwise(found))


def compiled(kernel):
    """A kernel that is compiled for this machine's GPU."""
    import tvm

    target = cuda.local_target()
    install(target.arch)
    name = kernel.attrs["global_symbol"]
    return tvm.compile(tvm.IRModule({name: kernel}), target=target.tvm_target())[name]


def laid_out(keys, values):
    """(tokens, heads, D) keys and values as pages (pages, 1, heads, …); see `tensor_rope`."""
    tokens, heads, dims = keys.shape
    token, d = np.meshgrid(np.arange(PAGE), np.arange(dims), indexing="ij")
    lane = token % 8 * 4 + d % 16 // 4
    key_at = (d // 16 * 32 + lane) * 8 + token // 8 * 4 + d % 4
    lane = d % 8 * 4 + token % 8 // 2
    value_at = (d // 16 * 32 + lane) * 8 + d % 16 // 8 * 4 + token // 8 * 2 + token % 2
    made = []
    for source, at, shape in ((keys, key_at, (dims, PAGE)), (values, value_at, (PAGE, dims))):
        pages = np.zeros((tokens // PAGE, heads, dims * PAGE), np.float16)
        content = source.reshape(-1, PAGE, heads, dims).transpose(0, 2, 1, 3)
        pages[:, :, at] = content
        made.append(pages.reshape(-1, 1, heads, *shape))
    return made


HEADS = [
    (8, 2, 128, None, None),
    (8, 2, 64, None, None),
    (4, 1, 256, 700, None),
    (6, 2, 80, None, 30.0),
    (2, 2, 160, 300, None),
    (40, 2, 32, None, None),
]


@needs_gpu
@pytest.mark.parametrize(("queries", "heads", "dims", "window", "cap"), HEADS)
def test_attention_in_parts_has_the_same_bits_on_a_gpu(queries, heads, dims, window, cap):
    import tvm

    from mlc_widget.engine.runtimes.tvm.cuda.tensor_attention import (
        blocks_of,
        make_tensor_attention,
        pages_of_a_part,
    )

    overlapped = cuda.local_target().capability >= 90
    attend = compiled(
        make_tensor_attention(queries, heads, dims, window, cap=cap, overlapped=overlapped)
    )
    part, device, rng = pages_of_a_part(dims) * PAGE, tvm.cuda(0), np.random.default_rng(dims)
    tokens = 10 * part  # more than are loaded at a time when parts are joined
    q = (rng.standard_normal((8, queries * dims)) * 1.4426950408889634 * dims**-0.5).astype("f2")
    keys, values = (rng.standard_normal((tokens, heads, dims)).astype("f2") for _ in range(2))
    last = np.array([0, part - 1, part, 2 * part + 5, tokens - 4, tokens - 3, tokens - 2, 77])
    table = rng.permutation(tokens // PAGE).astype(np.int32)
    k_pages, v_pages = (p[np.argsort(table)] for p in laid_out(keys, values))
    there = [
        tvm.runtime.tensor(a, device)
        for a in (q, k_pages, v_pages, last.astype(np.int32), table[None])
    ]

    def run(tiles):
        ended = tvm.runtime.tensor(np.zeros((8, blocks_of(queries, heads)), np.int32), device)
        y = tvm.runtime.tensor(np.full((8, pad(queries * dims)), np.nan, np.float16), device)
        partial = tvm.runtime.tensor(
            np.full((len(tiles), queries, dims + 2), np.nan, np.float32), device
        )
        attend(*there, tvm.runtime.tensor(tiles, device), ended, 0, y, partial)
        return y.numpy()

    rows = [(i, 1, 0) for i in range(8)]
    whole = run(tiles_of(*rows))
    expected = np.zeros((8, queries, dims))
    for i, (row, position) in enumerate(zip(q.astype("f8"), last, strict=True)):
        first = 0 if window is None else max(0, position + 1 - window)
        seen = slice(first, position + 1)
        k, v = (np.repeat(a[seen].astype("f8"), queries // heads, axis=1) for a in (keys, values))
        score = np.einsum("hd,thd->ht", row.reshape(queries, dims), k)
        if cap is not None:
            limit = cap * 1.4426950408889634
            score = limit * np.tanh(score / limit)
        weight = np.exp2(score - score.max(axis=1, keepdims=True))
        weight /= weight.sum(axis=1, keepdims=True)
        expected[i] = np.einsum("ht,thd->hd", weight, v)
    error = whole[:, : queries * dims].astype("f8") - expected.reshape(8, -1)
    assert np.linalg.norm(error) < 2e-3 * np.linalg.norm(expected)
    cut = cut_tiles(tiles_of(*rows), last, part, 512)
    assert len(cut) > 30
    together = min(rows_of(queries // heads), 3)
    joint = tiles_of((0, 1, 0), (1, 1, 0), (2, 1, 0), (3, 1, 0), (4, together, 0))
    joint = np.concatenate([joint, tiles_of(*rows[4 + together :])])
    for tiles in (cut, np.concatenate([cut, tiles_of(NO_TILE, NO_TILE)]), joint):
        for _ in range(3):
            assert np.array_equal(run(tiles), whole)


ROTATIONS = [
    ((8, 2, 128, None, None), Rotation(128)),
    ((8, 2, 64, 40, 30.0), Rotation(48, 1, 2)),
    ((40, 2, 32, None, None), Rotation(32, width=48)),
    ((4, 1, 256, None, None), Rotation(0)),
]


@needs_gpu
@pytest.mark.parametrize(("shape", "rotation"), ROTATIONS)
def test_rows_of_their_own_sequences_have_the_same_bits_on_a_gpu(shape, rotation):
    import tvm

    from mlc_widget.engine.runtimes.tvm.cuda.tensor_append import make_append_attention
    from mlc_widget.engine.runtimes.tvm.cuda.tensor_attention import blocks_of

    queries, heads, dims, window, cap = shape
    overlapped = cuda.local_target().capability >= 90
    attend = compiled(
        make_append_attention(
            queries, heads, dims, rotation, window, cap=cap, overlapped=overlapped
        )
    )
    device, rng = tvm.cuda(0), np.random.default_rng(dims)
    position = np.array([0, 7, 8, 15, 16, 100], np.int32)
    rows, most = len(position), 7  # pages of a sequence
    table = rng.permutation(rows * most).astype(np.int32).reshape(rows, most)
    slot = (table[np.arange(rows), position // PAGE] * PAGE + position % PAGE).astype(np.int32)
    width = rotation.width or rotation.dims // 2
    qkv = rng.standard_normal((rows, pad((queries + 2 * heads) * dims))).astype("f4")
    angles = [rng.standard_normal((128 * rotation.tables, width)).astype("f4") for _ in range(2)]
    shapes = [(rows * most, 2, heads, *last) for last in ((dims, PAGE), (PAGE, dims))]
    pages = [rng.standard_normal(s).astype("f2") for s in shapes]

    def run(tiles):
        there = [tvm.runtime.tensor(a, device) for a in (qkv, *angles, position, slot, *pages)]
        made = [((rows, pad(queries * dims)), "float16"), ((rows, queries * dims), "float16")]
        made += [((rows, blocks_of(queries, heads)), "int32")]
        made += [((len(tiles), queries, dims + 2), "float32")]
        out = [tvm.runtime.tensor(np.full(s, 77, dtype), device) for s, dtype in made]
        attend(
            *there, tvm.runtime.tensor(table, device), tvm.runtime.tensor(tiles, device), 1, *out
        )
        return [out[0].numpy(), there[5].numpy(), there[6].numpy()]

    own = run(tiles_of(*((i, 1, i) for i in range(rows))))
    # One more tile, and the rows' queries, keys and values are made by another kernel.
    other = run(tiles_of(*((i, 1, i) for i in range(rows)), NO_TILE))
    for mine, theirs, before in zip(own, other, (None, *pages), strict=True):
        assert mine.tobytes() == theirs.tobytes()
        assert before is None or mine.tobytes() != before.tobytes()
    assert np.isfinite(own[0].astype("f4")).all()


MANY = [
    ((8, 2, 128, None, None), Rotation(128)),
    ((8, 2, 96, 100, 30.0), Rotation(96)),
    ((6, 2, 80, None, None), Rotation(80)),
    ((40, 2, 112, None, None), Rotation(112)),
]


@needs_gpu
@pytest.mark.parametrize(("shape", "rotation"), MANY)
def test_rows_among_many_have_the_same_bits_on_a_gpu(shape, rotation):
    """Of sequences whose numbers of rows do not fill tiles, with and without parts of the keys."""
    import tvm

    from mlc_widget.engine.runtimes.tvm.cuda.tensor_append import make_append_attention
    from mlc_widget.engine.runtimes.tvm.cuda.tensor_attention import blocks_of, pages_of_a_part
    from mlc_widget.engine.runtimes.tvm.cuda.tensor_attention_many import most_rows, serves

    if not cuda.local_target().has_warpgroups:
        pytest.skip("needs a Hopper GPU")
    queries, heads, dims, window, cap = shape
    assert serves(dims)
    attend = compiled(
        make_append_attention(
            queries, heads, dims, rotation, window, cap=cap, overlapped=True, many=True
        )
    )
    few, many = rows_of(queries // heads), most_rows(queries // heads, dims)
    part, device, rng = pages_of_a_part(dims) * PAGE, tvm.cuda(0), np.random.default_rng(dims)
    spans = [(0, 33), (130, 20), (part - 9, 21), (2 * part + 5, 1), (7, 1), (part, 2)]
    most = -(-max(start + count for start, count in spans) // PAGE)
    table = rng.permutation(len(spans) * most).astype(np.int32).reshape(-1, most)
    positions = [np.arange(start, start + count) for start, count in spans]
    position = np.concatenate(positions).astype(np.int32)
    sequence = np.repeat(np.arange(len(spans)), [count for _, count in spans])
    slot = (table[sequence, position // PAGE] * PAGE + position % PAGE).astype(np.int32)
    rows = len(position)
    qkv = rng.standard_normal((rows, pad((queries + 2 * heads) * dims))).astype("f4")
    angles = [
        rng.standard_normal((3 * part, rotation.width or rotation.dims // 2)).astype("f4")
        for _ in range(2)
    ]
    shapes = [(table.size, 1, heads, *last) for last in ((dims, PAGE), (PAGE, dims))]
    pages = [tvm.runtime.tensor(rng.standard_normal(s).astype("f2"), device) for s in shapes]

    def run(chosen, tiles):
        tiles = cut_tiles(tiles, position[chosen], part, 512, few)
        there = [
            tvm.runtime.tensor(np.ascontiguousarray(a[chosen]), device)
            for a in (qkv, position, slot)
        ]
        turned = [tvm.runtime.tensor(a, device) for a in angles]
        made = [((len(chosen), pad(queries * dims)), "float16")]
        made += [((len(chosen), queries * dims), "float16")]
        made += [((len(chosen), blocks_of(queries, heads)), "int32")]
        made += [((len(tiles), queries, dims + 2), "float32")]
        out = [tvm.runtime.tensor(np.full(s, 77, dtype), device) for s, dtype in made]
        attend(
            there[0], *turned, there[1], there[2], *pages, tvm.runtime.tensor(table, device),
            tvm.runtime.tensor(tiles, device), 0, *out,
        )  # fmt: skip
        return out[0].numpy()

    first = np.concatenate([[0], np.cumsum([count for _, count in spans])])
    together = [
        (first[s] + at, min(many, count - at), s)
        for s, (_, count) in enumerate(spans)
        for at in range(0, count, many)
    ]
    found = run(np.arange(rows), tiles_of(*together))
    assert np.isfinite(found.astype("f4")).all()
    for row in range(0, rows, 8):
        chosen = np.arange(row, min(row + 8, rows))
        alone = run(chosen, tiles_of(*((i, 1, s) for i, s in enumerate(sequence[chosen]))))
        assert np.array_equal(alone, found[chosen])
