"""Attention on a GPU by tiles that are cut into parts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from mlc_widget.engine.runtimes.tvm.cuda import target as cuda
from mlc_widget.engine.runtimes.tvm.cuda.compiler import install
from mlc_widget.engine.runtimes.tvm.cuda.parts import NO_TILE, cut_tiles, sizes
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
        rows_of,
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
