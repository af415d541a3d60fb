"""The attention kernels by themselves: against numpy, and one row against tiles of rows."""

from __future__ import annotations

import itertools
import platform
from typing import Any

import numpy as np
import pytest

from mlc_widget.engine.runtimes.tvm.layouts import PAGE, pad
from mlc_widget.engine.runtimes.tvm.memory import Array, aligned_zeros, as_tensor
from mlc_widget.engine.runtimes.tvm.step_inputs import MIN_TILE_ROWS, attention_tiles
from mlc_widget.engine.runtimes.tvm.target import CpuTarget, host_target, isa_of

X86 = platform.machine() in {"x86_64", "AMD64"}
LENGTH = 150  # more than two blocks of pages, and a ragged end
TIERS: dict[str, tuple[str, set[str]]] = {
    "portable": ("x86-64", set()),
    "avx2": ("x86-64-v3", {"avx2", "fma", "f16c"}),
}


def target_of(tier: str) -> CpuTarget:
    host = host_target()
    if tier == "host":
        return host
    cpu, features = TIERS[tier]
    if not X86:
        pytest.skip("x86-64's tiers")
    return CpuTarget(host.triple, cpu, (), isa_of(features, host.triple))


class Sequence:
    """Keys and values of one sequence, in pages that lie anywhere, and queries for all of them.

    What lies beyond `LENGTH` is not a number.
    """

    def __init__(self, heads: tuple[int, int, int], dtype: str) -> None:
        self.hq, self.hkv, self.d = heads
        rng = np.random.default_rng(sum(heads))
        pages = -(-LENGTH // PAGE)
        self.k = rng.standard_normal((self.hkv, pages * PAGE, self.d)).astype(dtype)
        self.v = rng.standard_normal((self.hkv, pages * PAGE, self.d)).astype(dtype)
        self.k[:, LENGTH:], self.v[:, LENGTH:] = np.nan, np.inf
        self.q = aligned_zeros((LENGTH, self.hq * self.d), np.float32)
        self.q[...] = rng.standard_normal(self.q.shape)
        self.table = aligned_zeros((1, pages), np.int32)
        self.table[0] = rng.permutation(pages)
        self.k_pages = aligned_zeros((pages, 2, self.hkv, self.d, PAGE), dtype)
        self.v_pages = aligned_zeros((pages, 2, self.hkv, PAGE, self.d), dtype)
        for i, page in enumerate(self.table[0]):
            part = slice(i * PAGE, (i + 1) * PAGE)
            self.k_pages[page, 1] = self.k[:, part].transpose(0, 2, 1)
            self.v_pages[page, 1] = self.v[:, part]

    def reference(
        self, window: int | None, scale: float | None = None, cap: float | None = None
    ) -> Array:
        """(LENGTH, HQ D) in float64."""
        group, out = self.hq // self.hkv, np.zeros(self.q.shape)
        at = np.arange(LENGTH)
        seen = at[None] <= at[:, None]
        if window is not None:
            seen &= at[None] > at[:, None] - window
        for h in range(self.hq):
            columns = slice(h * self.d, (h + 1) * self.d)
            keys = self.k[h // group, :LENGTH].astype(np.float64)
            scores = self.q[:, columns].astype(np.float64) @ keys.T * (scale or self.d**-0.5)
            scores = scores if cap is None else cap * np.tanh(scores / cap)
            weights = np.where(seen, np.exp(scores - scores.max(axis=1, keepdims=True)), 0.0)
            weights /= weights.sum(axis=1, keepdims=True)
            out[:, columns] = weights @ self.v[h // group, :LENGTH].astype(np.float64)
        return out

    def run(self, kernel: Any, cuts: list[int]) -> Array:
        """The kernel's rows, with tiles that end at `cuts`, in a call for each two of them."""
        out = np.empty((LENGTH, pad(self.hq * self.d)), np.float32)
        borders = [0, *cuts, LENGTH]
        for at in range(0, len(borders) - 1, 2):
            mine = borders[at : at + 3]
            n = mine[-1] - mine[0]
            q, y = (
                aligned_zeros((n, self.q.shape[1]), np.float32),
                aligned_zeros((n, out.shape[1]), np.float32),
            )
            q[...] = self.q[mine[0] : mine[-1]]
            y.fill(np.nan)
            position = aligned_zeros((n,), np.int32)
            position[...] = np.arange(mine[0], mine[-1])
            tile = aligned_zeros((len(mine) - 1, 3), np.int32)
            tile[...] = [(a - mine[0], b - a, 0) for a, b in itertools.pairwise(mine)]
            args = [q, self.k_pages, self.v_pages, position, self.table, tile]
            kernel(*map(as_tensor, args), 1, as_tensor(y))
            out[mine[0] : mine[-1]] = y
        return out


def build(
    heads: tuple[int, int, int], target: CpuTarget, dtype: str, window: int | None, **more: Any
) -> Any:
    import tvm

    from mlc_widget.engine.runtimes.tvm.kernels.attention import make_attention

    function = make_attention(*heads, target.isa, dtype, window, **more)
    module = tvm.tirx.build(function, target=target.tvm_target())
    return module[function.attrs["global_symbol"]]


@pytest.mark.parametrize(
    ("heads", "tier", "dtype", "window", "more"),
    [
        pytest.param((9, 3, 64), "host", "float16", None, {}, marks=pytest.mark.soak),
        pytest.param((9, 3, 64), "host", "float16", 37, {}, marks=pytest.mark.soak),
        ((4, 1, 32), "host", "float32", 3, {}),
        pytest.param((7, 1, 96), "host", "float16", None, {}, marks=pytest.mark.soak),
        pytest.param((4, 1, 256), "host", "float16", 40, {"scale": 0.2}, marks=pytest.mark.soak),
        ((2, 2, 128), "avx2", "float16", 64, {"cap": 1.5}),
        # test_architectures.py has whole models on this tier.
        pytest.param(
            (6, 2, 32),
            "portable",
            "float16",
            None,
            {"scale": 0.5, "cap": 4.0},
            marks=pytest.mark.soak,
        ),
    ],
    ids=str,
)
def test_rows_and_tiles(
    heads: tuple[int, int, int], tier: str, dtype: str, window: int | None, more: dict[str, float]
) -> None:
    target = target_of(tier)
    sequence, kernel = Sequence(heads, dtype), build(heads, target, dtype, window, **more)
    rows = sequence.run(kernel, list(range(1, LENGTH)))
    reference = sequence.reference(window, **more)
    width = reference.shape[1]
    assert np.abs(rows[:, :width] - reference).max() < 2e-5 * np.abs(reference).max()
    assert (rows[:, width:] == 0).all()
    most = target.isa.attention_rows(heads[0] // heads[1])
    for size in {2, 3, 5, most - 1, most}:
        tiles = sequence.run(kernel, list(range(size, LENGTH, size)))
        assert np.array_equal(tiles.view(np.uint32), rows.view(np.uint32)), size


@pytest.mark.parametrize("kv_heads", [1, 2, 3, 8])
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_threads_get_equally_much_to_do(kv_heads: int, threads: int) -> None:
    for rows in range(1, 257):
        tiles = attention_tiles(rows, 20, kv_heads, threads)
        assert -(-rows // tiles) <= 20
        if rows >= 16 * threads:
            assert tiles * kv_heads % threads == 0
            assert rows // tiles >= MIN_TILE_ROWS


def test_one_thread_gets_as_few_tiles_as_there_can_be() -> None:
    assert [attention_tiles(n, 20, 3, 1) for n in (1, 20, 21, 256)] == [1, 1, 2, 13]
    assert [attention_tiles(n, 20, 3, 2) for n in (1, 7, 8, 20, 41)] == [1, 1, 2, 2, 4]
