"""The kernel that writes weights in ggml's blocks, against the layout's definition in numpy."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.engine.runtimes.tvm.blocks import FORMATS, BlockMatrix, repack_name
from mlc_widget.engine.runtimes.tvm.kernels.repack import make_repack
from mlc_widget.engine.runtimes.tvm.layouts import pad
from mlc_widget.engine.runtimes.tvm.memory import aligned_zeros
from mlc_widget.engine.runtimes.tvm.progress import Cancelled
from mlc_widget.engine.runtimes.tvm.target import host_target
from mlc_widget.engine.runtimes.tvm.weights import load_weights
from mlc_widget.engine.store.formats.ggml_types import TYPES_BY_NAME
from mlc_widget.engine.store.formats.gguf_file import GGUFModel
from mlc_widget.engine.store.formats.gguf_weights import GGUFWeights
from tests.engine.store.formats.gguf_writer import random_blocks, write

from .conftest import cpus

CODED = {name: kind for name, kind in FORMATS.items() if kind.coded}


@pytest.fixture(
    scope="module",
    params=[None, *(pytest.param(cpu, marks=pytest.mark.soak) for cpu in cpus())],
    ids=lambda cpu: cpu or "host",
)
def compiled(request):
    """The kernels of all types in one module, compiled for this CPU or a lesser kind."""
    import tvm

    kernels = {repack_name(kind): make_repack(kind) for kind in CODED.values()}
    target = host_target(request.param).tvm_target()
    return tvm.tirx.build(tvm.IRModule(kernels), target=target).__getitem__


def defined(layout: BlockMatrix, data: Any) -> Any:
    out = np.zeros(layout.shape, layout.dtype)
    layout.pack(data, out)
    return out


@pytest.mark.parametrize("name", CODED)
@pytest.mark.parametrize(("rows", "blocks"), [(80, 2), (21, 3), (5, 1)])
def test_every_bit_is_as_defined(compiled, name, rows, blocks):
    inputs = blocks * TYPES_BY_NAME[name].block
    data = random_blocks(TYPES_BY_NAME[name], rows, inputs, seed=rows)
    layout = BlockMatrix(name, inputs, rows, pad(rows))
    words = aligned_zeros(layout.shape, layout.dtype)
    pack = layout.packer(compiled)
    pieces = layout.pieces(20)
    for start, stop in pieces[::-1]:  # as threads write them in any order
        pack(data[start:stop], start, words)
    assert len(pieces) == -(-rows // 16)
    assert np.array_equal(words, defined(layout, data))


@pytest.mark.parametrize("name", CODED)
def test_what_is_beside_a_part_stays(compiled, name):
    """Unused lanes and the blocks after the last one are not written."""
    inputs = TYPES_BY_NAME[name].block
    data = random_blocks(TYPES_BY_NAME[name], 21, inputs)
    layout = BlockMatrix(name, inputs, 21, 64)
    words = aligned_zeros(layout.shape, layout.dtype)
    words[2:] = 0xABCDEF01
    layout.packer(compiled)(data, 0, words)
    assert (words[2:] == 0xABCDEF01).all()
    assert np.array_equal(words[:2], defined(layout, data)[:2])


class Reads:
    """Weights that count the parts that are read."""

    def __init__(self, weights: GGUFWeights) -> None:
        self._weights, self.pieces = weights, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._weights, name)

    def read_rows(self, record: Any, pieces: Any) -> Any:
        self.pieces += [(record.name, piece) for piece in pieces]
        return self._weights.read_rows(record, pieces)


@pytest.fixture
def small_tasks(monkeypatch):
    monkeypatch.setattr("mlc_widget.engine.runtimes.tvm.weights._PIECE", 1 << 12)
    monkeypatch.setattr("mlc_widget.engine.runtimes.tvm.weights._TASK", 1 << 14)


def opened(path: Path, tensors: dict[str, Any]) -> Reads:
    return Reads(GGUFWeights(GGUFModel(write(path, tensors))))


LAYERS = {"lm_head": "output", "model.embed_tokens": "token_embd"}


@pytest.mark.parametrize("name", ["Q4_0", "Q6_K", "Q8_0", "F16", "F32"])
def test_large_matrices_are_read_once_by_several_threads(compiled, small_tasks, tmp_path, name):
    kind = TYPES_BY_NAME[name]
    data = {stem: random_blocks(kind, 777, 512, seed) for seed, stem in enumerate(LAYERS.values())}
    tensors = {f"{stem}.weight": (kind, rows) for stem, rows in data.items()}
    source = opened(tmp_path / "m.gguf", tensors)
    layout = BlockMatrix(name, 512, 777, pad(777))
    reports: list[tuple[int, int]] = []
    arrays = load_weights(
        [(f"{layer}.part0", layout) for layer in LAYERS],
        source,
        compiled,
        lambda *counts: reports.append(counts),
    )
    for array, rows in zip(arrays, data.values(), strict=True):
        assert np.array_equal(array, defined(layout, rows))
    for layer in LAYERS:
        pieces = sorted(piece for n, piece in source.pieces if n == f"{layer}.part0")
        assert [start for start, _ in pieces[1:]] == [stop for _, stop in pieces[:-1]]
        assert (pieces[0][0], pieces[-1][1]) == (0, 777)
    total = sum(rows.nbytes for rows in data.values())
    assert reports[-1] == (total, total)
    assert len(reports) > 10  # so that a load can be cancelled at any moment
    source.close()


def test_a_cancelled_load_reads_no_more(compiled, small_tasks, tmp_path, monkeypatch):
    data = random_blocks(TYPES_BY_NAME["Q8_0"], 1 << 13, 512)
    source = opened(tmp_path / "m.gguf", {"output.weight": (TYPES_BY_NAME["Q8_0"], data)})
    layout, cancelled = BlockMatrix("Q8_0", 512, len(data), len(data)), threading.Event()
    read = source.read_rows

    def read_slowly(record: Any, pieces: Any) -> Any:
        if source.pieces:  # all but one wait
            assert cancelled.wait(60)
            time.sleep(0.01)
        return read(record, pieces)

    monkeypatch.setattr(source, "read_rows", read_slowly)

    def cancel(done: int, total: int) -> None:
        cancelled.set()
        raise Cancelled

    with pytest.raises(Cancelled):
        load_weights([("lm_head.part0", layout)], source, compiled, cancel)
    assert len(source.pieces) < len(layout.pieces(4096 // (512 // 32 * 34)))
    source.close()


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _written(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(bytes(100))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


@pytest.mark.parametrize("change", [_cut, _written])
@pytest.mark.parametrize("name", ["Q4_0", "F16"])
def test_a_file_that_changes_after_it_was_opened_is_one_error(
    compiled, small_tasks, tmp_path, name, change
):
    data = random_blocks(TYPES_BY_NAME[name], 2000, 512)
    path = tmp_path / "m.gguf"
    source = opened(path, {"output.weight": (TYPES_BY_NAME[name], data)})
    layout = BlockMatrix(name, 512, len(data), pad(len(data)))

    change(path)
    with pytest.raises(ModelFormatError, match=r"became shorter|was changed while it was read"):
        load_weights([("lm_head.part0", layout)], source, compiled, lambda *_: None)
    source.close()
