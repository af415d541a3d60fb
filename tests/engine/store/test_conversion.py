"""Folders of safetensors in MLC format: weights, configuration, and what goes wrong on the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from mlc_widget.api.errors import (
    BadRequestError,
    ModelError,
    ModelFormatError,
    UnsupportedModelError,
)
from mlc_widget.engine.store import conversion as module
from mlc_widget.engine.store import converted_folder
from mlc_widget.engine.store.conversion import Conversion
from mlc_widget.engine.store.formats.hf_folder import HFFolder, SafetensorsModel
from mlc_widget.engine.store.formats.hf_tokenizer import tokenizer_config
from mlc_widget.engine.store.stored_model import read_model
from mlc_widget.engine.store.tensor_cache import TensorCache
from mlc_widget.engine.text.tokenizer import Tokenizer

from . import hf_folders

sys.path.append(str(Path(__file__).parents[3] / "tools"))
import mlc_format


def nothing(*args, **kwargs):
    pass


def converted(folder, quantization=None, destination=None):
    destination = destination or folder.parent / f"{folder.name}-mlc"
    with Conversion(folder, quantization) as conversion:
        conversion.run(destination, Tokenizer.from_folder(folder), nothing)
    return destination


@pytest.mark.parametrize("dtype", ["F32", "BF16"])  # the fixtures' weights are bfloat16
@pytest.mark.parametrize("model_type", hf_folders.NAMES)
def test_floats_are_the_models_own(tmp_path, model_type, dtype):
    shards = 3 if model_type == "qwen3" else 1
    folder = hf_folders.make(tmp_path / "model", model_type, dtype=dtype, shards=shards)
    made = converted(folder, "q0f32")
    expected = mlc_format.read_params(hf_folders.FIXTURES / model_type)
    found = mlc_format.read_params(made)
    assert list(found) == list(expected)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    fixture = json.loads((hf_folders.FIXTURES / model_type / "mlc-chat-config.json").read_text())
    own = json.loads((made / "mlc-chat-config.json").read_text())
    assert own["model_type"] == model_type
    for key in own["model_config"].keys() & fixture["model_config"].keys():
        assert own["model_config"][key] == fixture["model_config"][key], key
    assert own["sliding_window_size"] == fixture["sliding_window_size"]


@pytest.mark.parametrize(("quantization", "most"), [("q4f16_1", 0.12), ("q8f16_1", 0.008)])
def test_codes_are_near_the_models_own(tmp_path, quantization, most):
    made = converted(hf_folders.make(tmp_path / "model"), quantization)
    expected = mlc_format.read_params(hf_folders.FIXTURES / "llama")
    found = mlc_format.read_params(made)
    bits = mlc_format.CODE_BITS[quantization]
    for name, value in expected.items():
        if value.ndim == 1:
            assert np.array_equal(found[name], value.astype(np.float16))
            continue
        stem = name.removesuffix(".weight")
        codes, scales = found[f"{stem}.q_weight"], found[f"{stem}.q_scale"].astype(np.float32)
        floats = mlc_format.dequantize_group(codes, scales, bits=bits)[:, : value.shape[1]]
        assert np.sqrt(((floats - value) ** 2).mean() / (value**2).mean()) < most
    cache = TensorCache.from_folder(made)
    cache.verify()
    with Conversion(tmp_path / "model", quantization) as conversion:
        assert conversion.nbytes == cache.nbytes


def test_small_models_get_eight_bits_and_larger_ones_four(tmp_path, monkeypatch):
    folder = hf_folders.make(tmp_path / "model")
    with Conversion(folder) as conversion:
        assert conversion.format.name == "q8f16_1"
        weights = conversion.weights
    assert weights == sum(v.size for v in hf_folders.tensors_of("llama").values())
    monkeypatch.setattr(module, "CODES_AT", weights)
    with Conversion(folder) as conversion:
        assert conversion.format.name == "q4f16_1"
    with pytest.raises(BadRequestError, match=r"q3f16_1.*give q4f16_1"):
        Conversion(folder, "q3f16_1")


def test_what_is_held_at_a_time_does_not_grow_with_the_model(tmp_path):
    """As the largest tensor, too, goes through in pieces."""
    changes = {"vocab_size": 60_000, "num_hidden_layers": 1}
    folder = hf_folders.make(tmp_path / "model", changes=changes)
    tensors = {n: v for n, v in hf_folders.tensors_of("llama").items() if ".layers.1." not in n}
    random = np.random.default_rng(0)
    tensors["model.embed_tokens.weight"] = random.standard_normal((60_000, 64), np.float32)
    hf_folders.write_tensors(folder / "model.safetensors", tensors, "F16")
    with Conversion(folder, "q4f16_1") as conversion:
        tokenizer = Tokenizer.from_folder(folder)
        tracemalloc.start()
        conversion.run(tmp_path / "mlc", tokenizer, nothing)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # 15.4 MB are read, 8.6 MB of them at a time at most: pieces of 2**19 weights.
        assert conversion.source_bytes > 7_700_000
    assert peak < 40_000_000


# What is beside the weights


def test_configuration_template_and_ends_of_an_answer(tmp_path):
    folder = hf_folders.make(tmp_path / "model", changes={"eos_token_id": 5})
    stored = read_model(converted(folder), None)
    assert stored.config["eos_token_id"] == [0, 2, 5]  # of generation_config and tokenizer, too
    assert (stored.config["temperature"], stored.config["top_p"]) == (0.4, 0.8)
    assert stored.config["context_window_size"] == 256
    assert stored.jinja is not None
    assert stored.jinja.text == hf_folders.TEMPLATE
    assert stored.jinja.tokens == {"eos_token": "<|im_end|>"}
    assert stored.jinja.bos_id is None


RAG, DEFAULT = {"name": "rag", "template": "R"}, {"name": "default", "template": "D"}


@pytest.mark.parametrize(
    ("own", "file", "expected"),
    [
        ({"chat_template": "A"}, None, "A"),
        ({"chat_template": "A"}, "B", "B"),
        ({}, "B", "B"),
        ({}, None, None),
        ({"chat_template": [RAG, DEFAULT]}, None, "D"),
        ({"chat_template": [RAG]}, None, "R"),
    ],
)
def test_where_a_template_is(tmp_path, own, file, expected):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(own))
    if file is not None:
        (tmp_path / "chat_template.jinja").write_text(file)
    assert tokenizer_config(HFFolder(tmp_path))["chat_template"] == expected


def test_a_base_model_has_no_template_and_says_so(tmp_path):
    folder = hf_folders.make(tmp_path / "model")
    (folder / "tokenizer_config.json").unlink()
    stored = read_model(converted(folder), None)
    assert stored.jinja is not None
    assert stored.jinja.text is None


@pytest.mark.parametrize(("given", "expected"), [(None, 1), (True, 1), (False, None)])
def test_texts_begin_as_the_tokenizer_has_it(tmp_path, given, expected):
    folder = hf_folders.make(tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    start = {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|im_start|>": start},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    own = {"bos_token": "<|im_start|>", "add_bos_token": given, "chat_template": "x"}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    stored = read_model(converted(folder), None)
    assert stored.jinja is not None
    assert stored.jinja.bos_id == expected
    assert not stored.jinja.bos_in_chats


def test_greedy_models_keep_the_defaults_of_requests(tmp_path):
    folder = hf_folders.make(tmp_path / "model")
    generation = {"do_sample": False, "temperature": 0.1, "repetition_penalty": 1.1}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    config = read_model(converted(folder), None).config
    assert "temperature" not in config
    assert config["repetition_penalty"] == 1.1


def test_the_defaults_of_requests_are_kept(tmp_path):
    folder = hf_folders.make(tmp_path / "model")
    generation = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.9,
                  "max_new_tokens": 512, "max_length": 20, "do_sample": True}  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(generation))
    config = read_model(converted(folder), None).config
    kept = {k: generation[k] for k in ("temperature", "top_k", "top_p", "min_p", "typical_p")}
    assert {k: config.get(k) for k in (*kept, "max_tokens")} == {**kept, "max_tokens": 512}


@pytest.mark.parametrize(
    ("parameters", "scaling", "theta"),
    [
        ({"rope_theta": 5e5, "rope_type": "default"}, None, 5e5),
        (
            {"rope_theta": 1e4, "rope_type": "linear", "factor": 2},
            {"rope_type": "linear", "factor": 2.0},
            1e4,
        ),
    ],
)
def test_rotary_embeddings_as_transformers_5_writes_them(tmp_path, parameters, scaling, theta):
    changes = {"rope_parameters": parameters, "rope_theta": None, "rope_scaling": None}
    folder = hf_folders.make(tmp_path / "model", changes=changes)
    config = read_model(converted(folder), None).config["model_config"]
    assert config["rope_scaling"] == scaling
    assert config["position_embedding_base"] == theta


def test_a_model_that_does_not_say_is_tied_where_it_has_no_output_layer(tmp_path):
    folder = hf_folders.make(tmp_path / "model", changes={"tie_word_embeddings": None})
    assert read_model(converted(folder), None).config["model_config"]["tie_word_embeddings"]
    folder = hf_folders.make(tmp_path / "untied", "qwen3", changes={"tie_word_embeddings": None})
    model_config = read_model(converted(folder), None).config["model_config"]
    assert not model_config["tie_word_embeddings"]


# What is refused, and what is left then


@pytest.mark.parametrize(
    ("model_type", "changes", "match"),
    [
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "packed by gptq"),
        ("qwen2", {"quantization_config": {"quant_method": "awq"}}, "packed by awq"),
        ("qwen3", {"quantization_config": {"quant_method": "fp8"}}, "packed by fp8"),
        ("llama", {"quantization_config": {"load_in_4bit": True}}, "load_in_4bit"),
        ("llama", {"model_type": "gemma3"}, "gemma3.*llama, mistral, qwen2, qwen3"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}, "use_sliding_window"),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 4}}, "dynamic.*linear"),
        ("mistral", {"hidden_act": "gelu"}, "gelu"),
    ],
)
def test_models_that_do_not_run_are_named(tmp_path, model_type, changes, match):
    folder = hf_folders.make(tmp_path / "model", model_type, changes=changes)
    with pytest.raises(UnsupportedModelError, match=match):
        Conversion(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_not_read(tmp_path, name):
    folder = hf_folders.make(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(UnsupportedModelError, match=rf"{name}, which is a pickle.*safetensors"):
        Conversion(folder)


def test_adapters_and_missing_tokenizers_are_told(tmp_path):
    folder = hf_folders.make(tmp_path / "model")
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    with pytest.raises(ModelFormatError, match=r"tokenizer\.model but no tokenizer\.json"):
        Conversion(folder)
    (folder / "tokenizer.model").rename(folder / "tokenizer.json")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(UnsupportedModelError, match="adapter"):
        Conversion(folder)


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_links_stay_within_the_model_or_its_repository_in_the_hubs_cache(tmp_path):
    repository = tmp_path / "models--user--repo"
    folder = hf_folders.make(repository / "snapshots" / "abc")
    blobs = repository / "blobs"
    blobs.mkdir()
    for i, file in enumerate(sorted(folder.iterdir())):
        file.rename(blobs / str(i))
        file.symlink_to(f"../../blobs/{i}")
    with Conversion(folder) as conversion:
        assert conversion.name.startswith("repo-q8f16_1-")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere, symlinks=True)
    (elsewhere / "model.safetensors").unlink()
    (elsewhere / "model.safetensors").symlink_to(blobs / "2")
    for file in elsewhere.iterdir():
        if file.name != "model.safetensors":
            content = (folder / file.name).read_bytes()
            file.unlink()
            file.write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"model\.safetensors is a link to .*outside"):
        Conversion(elsewhere)


class Stop(Exception):
    pass


def stop_at(count):
    def progress(done, total):
        nonlocal count
        count -= 1
        if count < 0:
            raise Stop

    return progress


@pytest.mark.parametrize("count", [0, 1, 5])
def test_nothing_is_left_of_what_was_cancelled(tmp_path, count):
    folder = hf_folders.make(tmp_path / "model")
    with Conversion(folder) as conversion, pytest.raises(Stop):
        conversion.run(tmp_path / "mlc", Tokenizer.from_folder(folder), stop_at(count))
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_progress_counts_every_byte_once(tmp_path):
    folder = hf_folders.make(tmp_path / "model", shards=2)
    seen = []
    with Conversion(folder) as conversion:
        conversion.run(
            tmp_path / "mlc", Tokenizer.from_folder(folder), lambda *counts: seen.append(counts)
        )
        assert seen[0] == (0, conversion.source_bytes)
        assert seen[-1] == (conversion.source_bytes, conversion.source_bytes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_full_disk_is_told_before_and_during_the_work(tmp_path, monkeypatch):
    folder = hf_folders.make(tmp_path / "model")
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
        with pytest.raises(ModelError, match=r"needs 0\.0 GB") as caught:
            converted(folder)
        assert caught.value.code == "disk_full"

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_whole", full)
    with pytest.raises(ModelError, match="No space left on device") as caught:
        converted(folder)
    assert caught.value.code == "disk_full"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_files_that_change_meanwhile_are_told(tmp_path):
    folder = hf_folders.make(tmp_path / "model")

    def touch(done, total):
        os.utime(folder / "model.safetensors", ns=(0, 12345))

    with Conversion(folder) as conversion, pytest.raises(ModelFormatError, match="was changed"):
        conversion.run(tmp_path / "mlc", Tokenizer.from_folder(folder), touch)
    assert not (tmp_path / "mlc").exists()


def test_a_repository_without_its_weights_is_no_model(tmp_path):
    folder = hf_folders.make(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFormatError, match="has no weights"):
        SafetensorsModel(HFFolder(folder))


# The cache


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MLC_WIDGET_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def keep(folder, cancelled=None, quantization=None):
    reports = []
    with Conversion(folder, quantization) as conversion:
        there = converted_folder.find(conversion)
        made = converted_folder.convert(
            conversion,
            Tokenizer.from_folder(folder),
            lambda *args, **kwargs: reports.append(args[0]),
            cancelled or threading.Event(),
        )
    assert there in (None, made)
    return made, bool(reports)


def test_a_model_is_converted_once(tmp_path, home):
    folder = hf_folders.make(tmp_path / "model")
    made, worked = keep(folder)
    assert worked
    assert made.parent == home / "converted"
    assert keep(folder) == (made, False)
    assert keep(folder, quantization="q4f16_1")[1]
    assert keep(shutil.copytree(folder, tmp_path / "model2" / "model")) == (made, False)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer_config.json", "generation_config.json"]
)
def test_a_changed_source_is_converted_again(tmp_path, home, name):
    folder = hf_folders.make(tmp_path / "model")
    made, _ = keep(folder)
    if name == "model.safetensors":
        os.utime(folder / name, ns=(0, 7))
    else:
        with (folder / name).open("a") as file:
            file.write(" ")
    other, worked = keep(folder)
    assert worked
    assert other != made


def test_what_a_killed_process_left_is_removed_and_made_anew(tmp_path, home):
    folder = hf_folders.make(tmp_path / "model")
    with Conversion(folder) as conversion:
        name = conversion.name
    cache = home / "converted"
    for half in (f".{name}.12345.part", name):
        (cache / half).mkdir(parents=True, mode=0o700)
        (cache / half / "params_shard_0.bin").write_bytes(b"half")
    cache.chmod(0o700)
    made, worked = keep(folder)
    assert worked
    TensorCache.from_folder(made).verify()
    assert not list(cache.glob("*.part"))
    assert not list(cache.glob(".*.part"))


def test_who_waits_for_another_process_can_be_cancelled(tmp_path, home):
    from filelock import FileLock

    folder = hf_folders.make(tmp_path / "model")
    with Conversion(folder) as conversion:
        (home / "converted").mkdir(parents=True)
        cancelled = threading.Event()
        cancelled.set()
        lock = FileLock(home / "converted" / f"{conversion.name}.lock")
        with lock, pytest.raises(converted_folder.Cancelled):
            converted_folder.convert(conversion, Tokenizer.from_folder(folder), nothing, cancelled)


def test_a_cache_that_cannot_be_used_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("MLC_WIDGET_HOME", str(tmp_path / "home"))
    with pytest.raises(ModelError, match="mlc_widget convert"):
        keep(hf_folders.make(tmp_path / "model"))


# Quantizations of what is quantised


def test_what_has_a_quantization_is_not_given_another(tmp_path):
    made = converted(hf_folders.make(tmp_path / "model"), "q4f16_1")
    read_model(made, {"quantization": "q4f16_1"})
    with pytest.raises(BadRequestError, match=r"q8f16_1.*stored already, in q4f16_1"):
        read_model(made, {"quantization": "q8f16_1"})
