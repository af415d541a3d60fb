"""Logits and greedy tokens against transformers, on tiny random models (tools/golden.py)."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from .conftest import GOLDEN, NAMES, collect, greedy, ids_of


@pytest.fixture(params=NAMES)
def golden(request):
    with np.load(GOLDEN / request.param / "golden.npz") as data:
        return request.param, dict(data)


@pytest.mark.parametrize("chunk", [32, 24, 256])
async def test_greedy_tokens(load, golden, chunk):
    name, data = golden
    runtime = await load(name, prefill_chunk_size=chunk, max_num_sequence=4)
    events = await collect(runtime, data["prompt"].tolist(), greedy(max_tokens=40))
    assert ids_of(events) == data["greedy"].tolist()
