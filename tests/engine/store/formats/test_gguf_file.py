import os
import random
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from mlc_widget.api.errors import ModelError, ModelFormatError, UnsupportedModelError
from mlc_widget.engine.store.formats import gguf_file
from mlc_widget.engine.store.formats.gguf_file import GGUFFile, GGUFModel
from tests.engine.store.formats.gguf_writer import READABLE, random_blocks, write

FIELDS = {
    "llama.block_count": 2,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.tokens": ["<s>", "é", "中"],
    "tokenizer.ggml.scores": [0.0, -1.5, -2.5],
    "tokenizer.ggml.token_type": [3, 1, 1],
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    tensors = {
        f"blk.{i}.weight": (kind, random_blocks(kind, 5, 512)) for i, kind in enumerate(READABLE)
    }
    return write(tmp_path_factory.mktemp("gguf") / "sound.gguf", tensors, FIELDS), tensors


def test_reads_fields_and_every_type_of_tensor(sound):
    path, tensors = sound
    with GGUFFile(path) as file:
        assert file.fields["general.architecture"] == "llama"
        for key, value in FIELDS.items():
            assert list(np.ravel(file.fields[key])) == list(np.ravel(value)), key
        assert list(file.tensors) == list(tensors)
        for name, (kind, data) in tensors.items():
            tensor = file.tensors[name]
            assert (tensor.kind, tensor.shape) == (kind, (5, 512))
            assert np.array_equal(file.read_rows(tensor, 1, 4), data[1:4])


def _string(text):
    return struct.pack("<Q", len(text)) + text


def _header(tensors=0, fields=0, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields)


def _tensor(name=b"t", shape=(32,), kind=2, offset=0):
    return (
        _string(name)
        + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        + struct.pack("<IQ", kind, offset)
    )


HOSTILE = {
    "empty": b"",
    "another format": b"PK\x03\x04" + bytes(100),
    "only the magic": b"GGUF",
    "2**60 tensors": _header(tensors=1 << 60),
    "2**60 fields": _header(fields=1 << 60),
    "2**16 tensors that are not there": _header(tensors=1 << 16),
    "a key of 2**63 bytes": _header(fields=1) + struct.pack("<Q", 1 << 63),
    "a string of 2**40 bytes": _header(fields=1) + _string(b"k") + struct.pack("<IQ", 8, 1 << 40),
    "a string that is not UTF-8": _header(fields=1) + _string(b"k") + struct.pack("<I", 8)
    + _string(b"\xff\xfe"),
    "an array of 2**62 numbers": _header(fields=1) + _string(b"k")
    + struct.pack("<IIQ", 9, 4, 1 << 62),
    "an array of a million strings that are not there": _header(fields=1) + _string(b"k")
    + struct.pack("<IIQ", 9, 8, 1 << 20),
    "arrays in arrays": _header(fields=1) + _string(b"k") + struct.pack("<IIQ", 9, 9, 1)
    + struct.pack("<IIQ", 9, 9, 1) * 1000,
    "a value of no type": _header(fields=1) + _string(b"k") + struct.pack("<I", 77),
    "the same field twice": _header(fields=2) + (_string(b"k") + struct.pack("<IB", 0, 1)) * 2,
    "an alignment of 0": _header(fields=1) + _string(b"general.alignment")
    + struct.pack("<II", 4, 0),
    "an alignment that is a text": _header(fields=1) + _string(b"general.alignment")
    + struct.pack("<I", 8) + _string(b"32"),
    "a tensor of no dimensions": _header(tensors=1) + _tensor(shape=()) + bytes(64),
    "a tensor of a hundred dimensions": _header(tensors=1) + _tensor(shape=(1,) * 100) + bytes(64),
    "a tensor of size 0": _header(tensors=1) + _tensor(shape=(0, 32)) + bytes(64),
    "sizes whose product overflows": _header(tensors=1) + _tensor(shape=(1 << 33, 1 << 33))
    + bytes(64),
    "half a block": _header(tensors=1) + _tensor(shape=(48,)) + bytes(64),
    "a tensor behind the end": _header(tensors=1) + _tensor(offset=1 << 40) + bytes(64),
    "a tensor at no boundary": _header(tensors=1) + _tensor(offset=7) + bytes(64),
    "two tensors in one place": _header(tensors=2) + _tensor(b"a") + _tensor(b"b") + bytes(64),
    "the same tensor twice": _header(tensors=2) + _tensor() + _tensor(offset=32) + bytes(128),
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_one_clear_error(tmp_path, content):
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"hostile\.gguf"):
        GGUFFile(path)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (_header(version=1), "version 1"),
        (_header(tensors=1) + _tensor(shape=(256,), kind=19) + bytes(64), "IQ1_S"),
        (_header(tensors=1) + _tensor(kind=999) + bytes(64), "type 999"),
    ],
)
def test_what_is_not_read_is_named(tmp_path, content, named):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=named):
        GGUFFile(path)


def test_damaged_files_are_an_error_or_read_as_before(sound, tmp_path):
    """Cut anywhere, or with bytes changed anywhere in the header: an error soon, or a file."""
    whole = sound[0].read_bytes()
    with GGUFFile(sound[0]) as file:
        header = file.tensors["blk.0.weight"].offset
    draw, path, started = random.Random(7), tmp_path / "damaged.gguf", time.monotonic()
    for i in range(300):
        content = bytearray(whole)
        if i % 2:
            del content[draw.randrange(len(content)) :]
        else:
            for _ in range(draw.randrange(1, 5)):
                content[draw.randrange(header)] = draw.choice([0, 255, draw.randrange(256)])
        path.write_bytes(content)
        try:
            with GGUFFile(path) as file:
                for tensor in file.tensors.values():
                    assert tensor.offset + tensor.nbytes <= len(content)
        except ModelError:
            pass
    assert time.monotonic() - started < 60


def test_what_is_no_regular_file_is_an_error_at_once(tmp_path):
    fifo = tmp_path / "fifo.gguf"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, Path("/dev/zero"), tmp_path / "missing.gguf"):
        with pytest.raises(ModelFormatError, match=str(path)):
            GGUFFile(path)


def test_a_file_that_is_cut_while_open_is_an_error(sound, tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(sound[0].read_bytes())
    with GGUFFile(path) as file:
        tensor = list(file.tensors.values())[-1]
        os.truncate(path, tensor.offset + 10)
        with pytest.raises(ModelFormatError, match="became shorter"):
            file.read_rows(tensor, 0, 5)


def _split(folder, count=2, said=None):
    kind = READABLE[2]
    paths = []
    for i in range(count):
        path = folder / f"model-{i + 1:05d}-of-{count:05d}.gguf"
        fields = {"split.no": i, "split.count": said or count}
        write(path, {f"tensor.{i}": (kind, random_blocks(kind, 2, 256, i))}, fields)
        paths.append(path)
    return paths


def test_a_split_model_is_read_from_any_of_its_files(tmp_path):
    for path in _split(tmp_path):
        with GGUFModel(path) as model:
            assert list(model.tensors) == ["tensor.0", "tensor.1"]
            assert model.fields["split.no"] == 0


def test_a_split_model_that_is_not_whole_names_what_lacks(tmp_path):
    first, second = _split(tmp_path)
    second.unlink()
    with pytest.raises(ModelFormatError, match=r"00002-of-00002\.gguf is missing: .* has 2 parts"):
        GGUFModel(first)


def test_parts_that_were_renamed_are_refused(tmp_path):
    paths = _split(tmp_path, said=3)
    with pytest.raises(ModelFormatError, match="do not rename"):
        GGUFModel(paths[0])


def test_a_model_that_is_opened_again_is_not_parsed_again(tmp_path, monkeypatch):
    first, _ = _split(tmp_path)
    with GGUFModel(first) as model:
        headers, tensors = model.headers, model.tensors
        rows = [file.read_rows(tensor, 0, 2) for file, tensor in tensors.values()]
    monkeypatch.setattr(gguf_file, "HeaderReader", lambda *_: pytest.fail("it is parsed"))
    with GGUFModel(first, headers) as again:
        assert again.fields["split.count"] == 2
        for (file, tensor), expected in zip(again.tensors.values(), rows, strict=True):
            assert np.array_equal(file.read_rows(tensor, 0, 2), expected)


def _touched(path, other):
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def _overwritten(path, other):
    path.write_bytes(other.read_bytes())


def _replaced(path, other):
    os.replace(other, path)


@pytest.mark.parametrize("change", [_touched, _overwritten, _replaced])
def test_a_file_that_has_changed_is_parsed_again(sound, tmp_path, change):
    path, other = tmp_path / "model.gguf", tmp_path / "other.gguf"
    path.write_bytes(sound[0].read_bytes())
    write(other, {"another": (READABLE[2], random_blocks(READABLE[2], 5, 512))}, FIELDS)
    with GGUFModel(path) as model:
        headers = model.headers
        assert not any(key.startswith("tokenizer.") for key in headers[path].fields)
    change(path, other)
    with GGUFModel(path, headers) as model:
        assert model.fields["tokenizer.ggml.tokens"] == FIELDS["tokenizer.ggml.tokens"]
        assert list(model.tensors) == (list(sound[1]) if change is _touched else ["another"])


def test_a_file_that_was_cut_after_it_was_parsed_is_an_error(sound, tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes(sound[0].read_bytes())
    with GGUFModel(path) as model:
        headers = model.headers
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(ModelFormatError, match="cut short"):
        GGUFModel(path, headers)
