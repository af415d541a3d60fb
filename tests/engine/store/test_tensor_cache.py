from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.engine.store import model_files
from mlc_widget.engine.store.tensor_cache import TensorCache

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
import mlc_format

PARAMS = {
    "a": np.arange(12, dtype=np.uint32).reshape(3, 4),
    "b": np.linspace(-3, 3, 50, dtype=np.float32).reshape(5, 10),
    "c": np.linspace(-3, 3, 7, dtype=np.float16),
    "d": np.zeros((0, 3), np.float32),
}


@pytest.fixture(params=["raw", "f32-to-bf16"])
def folder(request, tmp_path):
    mlc_format.write_params(tmp_path, PARAMS, shard_bytes=100, encode_format=request.param)
    return tmp_path


@pytest.fixture
def raw(tmp_path):
    mlc_format.write_params(tmp_path, PARAMS, encode_format="raw")
    return tmp_path


def edit(folder: Path, change) -> None:
    file = folder / "tensor-cache.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_reads_what_was_written(folder):
    cache = TensorCache.from_folder(folder)
    assert list(cache.records) == list(PARAMS)
    expected = mlc_format.read_params(folder)
    for name, record in cache.records.items():
        value = cache.read(record)
        assert value.dtype == PARAMS[name].dtype
        assert np.array_equal(value, expected[name])
    assert cache.nbytes == sum(f.stat().st_size for f in folder.glob("*.bin"))
    cache.verify()


def test_reads_piece_by_piece(folder):
    cache = TensorCache.from_folder(folder)
    for record in cache.records.values():
        rows = record.shape[0]
        cuts = [(at, min(at + 3, rows)) for at in range(0, rows, 3)]
        pieces = [piece.copy() for piece in cache.read_rows(record, cuts)]
        assert [len(p) for p in pieces] == [stop - start for start, stop in cuts]
        whole = cache.read(record)
        assert np.array_equal(np.concatenate([whole[:0], *pieces]), whole)


def test_the_older_name(tmp_path):
    mlc_format.write_params(tmp_path, PARAMS, cache_name="ndarray-cache.json")
    assert TensorCache.from_folder(tmp_path).file.name == "ndarray-cache.json"


def test_bfloat16_is_widened(tmp_path):
    values = np.array([1.0, -2.5, 3.25], np.float32)
    mlc_format.write_params(tmp_path, {"x": values})
    edit(tmp_path, lambda c: c["records"][0]["records"][0].update(dtype="bfloat16", format="raw"))
    cache = TensorCache.from_folder(tmp_path)
    assert np.array_equal(cache.read(cache.records["x"]), values)


def refused(folder: Path, match: str, file: str = "tensor-cache.json") -> None:
    with pytest.raises(ModelFormatError, match=match) as caught:
        TensorCache.from_folder(folder)
    assert caught.value.param == str(folder / file)
    assert str(folder / file) in caught.value.message


def test_no_list(tmp_path):
    refused(tmp_path, "is missing.*download")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"records": 3}', '{"records": []}', '{"records": [1]}', "[" * 9999],
)
def test_a_list_that_is_no_list(tmp_path, text):
    (tmp_path / "tensor-cache.json").write_text(text)
    refused(tmp_path, "as MLC writes it")


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("dataPath", "../params_shard_0.bin", "name of a file"),
        ("dataPath", "", "name of a file"),
        ("dataPath", 3, "name of a file"),
        ("dataPath", "a\0.bin", "name of a file"),
        ("dataPath", "a" * 100_000, "name of a file"),
        ("format", "zip", "raw-shard"),
        ("nbytes", -1, "integer"),
        ("nbytes", "9", "integer"),
    ],
)
def test_a_shard_that_is_wrongly_listed(raw, field, value, match):
    edit(raw, lambda c: c["records"][0].update({field: value}))
    refused(raw, match)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("dtype", "complex64", "complex64"),
        ("format", "f8", "f8"),
        ("shape", [3, 5], "needs 60"),
        ("shape", [3, -4], "integer"),
        ("nbytes", 44, "needs 48"),
        ("byteOffset", 1 << 40, "beyond its shard"),
        ("byteOffset", True, "integer"),
        ("name", None, "not a parameter's name"),
        ("name", "b", "twice"),
    ],
)
def test_a_record_that_is_wrong(raw, field, value, match):
    edit(raw, lambda c: c["records"][0]["records"][0].update({field: value}))
    refused(raw, match)


def test_a_record_without_a_field(raw):
    edit(raw, lambda c: c["records"][0]["records"][0].pop("dtype"))
    refused(raw, "no field 'dtype'")


def test_a_shard_that_is_missing(folder):
    (folder / "params_shard_1.bin").unlink()
    refused(folder, "is missing. Download", "params_shard_1.bin")


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b""])
def test_a_shard_of_another_size(raw, change):
    shard = raw / "params_shard_0.bin"
    shard.write_bytes(change(shard.read_bytes()))
    refused(raw, "Download it again", "params_shard_0.bin")


def test_a_shard_that_shrinks_later(raw):
    cache = TensorCache.from_folder(raw)
    shard = raw / "params_shard_0.bin"
    shard.write_bytes(shard.read_bytes()[:60])
    with pytest.raises(ModelFormatError, match=r"read for b: the file is too short"):
        cache.read(cache.records["b"])
    shard.unlink()
    with pytest.raises(ModelFormatError, match="cannot be read"):
        cache.read(cache.records["b"])


def test_verify_finds_a_changed_byte_and_reports_progress(folder):
    cache = TensorCache.from_folder(folder)
    seen: list[tuple[int, int]] = []
    cache.verify(lambda done, total: seen.append((done, total)))
    assert seen[-1] == (cache.nbytes, cache.nbytes)
    shard = folder / "params_shard_0.bin"
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ModelFormatError, match="damaged") as caught:
        cache.verify()
    assert caught.value.param == str(shard)


@pytest.mark.parametrize("nbytes", [None, 0], ids=["full", "empty"])
@pytest.mark.parametrize(("make", "kind"), [(os.mkfifo, "a pipe"), (os.mkdir, "a folder")])
def test_a_shard_that_is_no_file_is_one_error_at_once(raw, make, kind, nbytes):
    shard = raw / "params_shard_0.bin"
    shard.unlink()
    make(shard)
    if nbytes is not None:
        edit(raw, lambda c: c["records"][0].update(nbytes=nbytes, records=[]))
    refused(raw, f"is {kind}, not a regular file", shard.name)


@pytest.mark.parametrize("use", ["read", "verify", "list"])
def test_a_pipe_that_takes_a_files_place_meanwhile_is_not_waited_for(raw, monkeypatch, use):
    cache = TensorCache.from_folder(raw)
    file = raw / ("tensor-cache.json" if use == "list" else "params_shard_0.bin")
    opened = model_files.os.open

    def swap(path, *args, **kwargs):
        if Path(path) == file and not file.is_fifo():
            file.unlink()
            os.mkfifo(file)
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(model_files.os, "open", swap)
    with pytest.raises(ModelFormatError, match="is a pipe") as caught:
        if use == "read":
            cache.read(cache.records["b"])
        elif use == "verify":
            cache.verify()
        else:
            TensorCache.from_folder(raw)
    assert caught.value.param == str(file)
