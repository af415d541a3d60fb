"""The kernels between the projection to queries and keys and attention, against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlc_widget.engine.runtimes.tvm.kernels.layer_norm import make_head_layer_norm
from mlc_widget.engine.runtimes.tvm.kernels.rope import Rotation, make_rope_append
from mlc_widget.engine.runtimes.tvm.layouts import PAGE, pad
from mlc_widget.engine.runtimes.tvm.memory import Array, aligned_zeros, as_tensor
from mlc_widget.engine.store.rope import Rope

from .test_attention import target_of

HQ, HKV, ROWS = 3, 1, 11  # more than 8 rows, which threads share


def built(function: Any, tier: str) -> Any:
    import tvm

    module = tvm.tirx.build(function, target=target_of(tier).tvm_target())
    return module[function.attrs["global_symbol"]]


def random_rows(head_dim: int) -> Array:
    made = aligned_zeros((ROWS, pad((HQ + 2 * HKV) * head_dim)), np.float32)
    made[...] = np.random.default_rng(head_dim).standard_normal(made.shape)
    return made


@pytest.mark.parametrize(
    ("head_dim", "dims", "tier"),
    [
        (80, 20, "host"), (160, 40, "host"), (96, 24, "host"), (32, 8, "host"), (16, 2, "host"),
        (80, 26, "portable"), (48, 48, "portable"),
    ],
)  # fmt: skip
def test_a_part_of_each_head_is_rotated(head_dim, dims, tier):
    kernel = built(
        make_rope_append(HQ, HKV, head_dim, target_of(tier).isa, rotation=Rotation(dims)), tier
    )
    cos, sin = (as_floats(table) for table in Rope(10000.0, dims).table(64))
    qkv, position = random_rows(head_dim), aligned_zeros((ROWS,), np.int32)
    position[...] = np.random.default_rng(0).permutation(64)[:ROWS]
    slot = aligned_zeros((ROWS,), np.int32)
    slot[...] = np.random.default_rng(1).permutation(2 * PAGE)[:ROWS]
    keys = aligned_zeros((2, 1, HKV, head_dim, PAGE), np.float32)
    values = aligned_zeros((2, 1, HKV, PAGE, head_dim), np.float32)
    queries = aligned_zeros((ROWS, HQ * head_dim), np.float32)
    args = [qkv, cos, sin, position, slot, keys, values]
    kernel(*map(as_tensor, args), 0, as_tensor(queries))

    heads = qkv[:, : (HQ + 2 * HKV) * head_dim].reshape(ROWS, -1, head_dim).astype(np.float64)
    half, (c, s) = dims // 2, (table[position][:, None] for table in (cos, sin))
    a, b, rest = np.split(heads[:, : HQ + HKV], [half, dims], axis=2)
    rotated = np.concatenate((a * c - b * s, b * c + a * s, rest), axis=2)
    assert np.allclose(queries.reshape(ROWS, HQ, head_dim), rotated[:, :HQ], atol=1e-5)
    for row, at in enumerate(slot):
        page, token = divmod(at, PAGE)
        assert np.allclose(keys[page, 0, :, :, token], rotated[row, HQ:], atol=1e-5)
        assert np.array_equal(values[page, 0, :, token], heads[row, HQ + HKV :])


def as_floats(table: Array) -> Array:
    made = aligned_zeros(table.shape, np.float32)
    made[...] = table
    return made


@pytest.mark.parametrize(("head_dim", "tier"), [(32, "portable"), (80, "host"), (160, "host")])
def test_each_head_has_a_layer_norm_of_its_own(head_dim, tier):
    kernel = built(make_head_layer_norm(HQ, HKV, head_dim, 1e-5, target_of(tier).isa), tier)
    qkv = random_rows(head_dim)
    weights = [aligned_zeros((pad(heads * head_dim),), np.float32) for heads in (HQ, HKV)]
    for weight in weights:
        weight[...] = np.random.default_rng(len(weight)).standard_normal(weight.shape)
    before = qkv.copy()
    kernel(*map(as_tensor, (qkv, *weights)))

    heads = before[:, : (HQ + HKV) * head_dim].reshape(ROWS, -1, head_dim).astype(np.float64)
    centred = heads - heads.mean(axis=2, keepdims=True)
    normed = centred / np.sqrt(np.square(centred).mean(axis=2, keepdims=True) + 1e-5)
    of_heads = [
        weight[: count * head_dim].reshape(count, head_dim)
        for weight, count in zip(weights, (HQ, HKV), strict=True)
    ]
    expected = (normed * np.concatenate(of_heads)).reshape(ROWS, -1)
    assert np.allclose(qkv[:, : expected.shape[1]], expected, atol=1e-5)
    assert np.array_equal(qkv[:, expected.shape[1] :], before[:, expected.shape[1] :])
