"""Loading a model: reports, caches, refusals, cancellation."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mlc_widget.api.errors import (
    InsufficientMemoryError,
    InternalEngineError,
    ModelFormatError,
    UnsupportedModelError,
)
from mlc_widget.engine.runtimes.tvm.runtime import TVMRuntime

from .conftest import (
    DEADLINE,
    GOLDEN,
    ROOT,
    Reports,
    collect,
    golden_data,
    greedy,
    ids_of,
    source_of,
)

NAME = "gqa-tied-q4f32_1"
PROMPT = [5, 6, 7]


async def load_from(folder: Path, cache: Path, **options) -> Reports:
    """Load and unload; the reports."""
    runtime, reports = TVMRuntime({"cache_dir": cache, **options}), Reports()
    await runtime.load(source_of(folder), reports)
    assert len(ids_of(await collect(runtime, PROMPT, greedy(max_tokens=2)))) == 2
    await runtime.unload()
    return reports


# --- progress -------------------------------------------------------------------------------------


async def test_progress_goes_through_the_phases_and_counts_bytes(cache_dir):
    reports = await load_from(GOLDEN / NAME, cache_dir, verify=True)
    phases = list(dict.fromkeys(r[0] for r in reports.all))
    assert phases == ["resolve", "verify", "compile", "load", "warm up"]
    size = sum(f.stat().st_size for f in (GOLDEN / NAME).glob("*.bin"))
    for phase in ("verify", "load"):
        counts = [(r[3], r[4]) for r in reports.all if r[0] == phase and r[3] is not None]
        assert counts[-1] == (size, size)
        assert counts == sorted(counts)
    assert all(0 <= r[1] <= 1 for r in reports.all)


# --- the compile cache (its own tests are in test_cache.py) ---------------------------------------


@pytest.fixture
async def copy_code(cache_dir: Path) -> Callable[[Path], None]:
    """Copies the compiled code of `NAME`, which takes seconds to compile, into another cache."""
    await load_from(GOLDEN / NAME, cache_dir)

    def copy(cache: Path) -> None:
        (cache / "tvm").mkdir(exist_ok=True)
        for entry in (cache_dir / "tvm").glob("*.code"):
            shutil.copy(entry, cache / "tvm")

    return copy


def test_the_second_load_compiles_nothing_and_none_needs_a_program_on_the_path(tmp_path, copy_code):
    copy_code(tmp_path)
    code = f"""
import asyncio
from tests.engine.runtimes.tvm.conftest import *
from tests.engine.runtimes.tvm.test_loading import load_from
cache = Path({str(tmp_path)!r})
async def main():
    assert not (await load_from(GOLDEN / {NAME!r}, cache)).compiled
    for entry in (cache / "tvm").iterdir():
        entry.write_bytes(b"no machine code")
    at_once = await asyncio.gather(*(load_from(GOLDEN / {NAME!r}, cache) for _ in range(3)))
    assert [reports.compiled for reports in at_once].count(True) == 1
    assert not (await load_from(GOLDEN / {NAME!r}, cache)).compiled
asyncio.run(main())
"""
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k not in {"CC", "CXX"}} | {"PATH": ""},
        check=True,
        timeout=2 * DEADLINE,
    )


@pytest.mark.soak  # test_cache.py has the cache by itself
async def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path):
    (tmp_path / "tvm").write_text("a file in the way")
    assert (await load_from(GOLDEN / NAME, tmp_path)).compiled


@pytest.mark.soak  # the first of these tests loads three at once, too
async def test_several_at_once_do_not_disturb_each_other(tmp_path):
    reports = await asyncio.gather(*(load_from(GOLDEN / NAME, tmp_path) for _ in range(3)))
    assert sum(r.compiled for r in reports) == 1
    assert not (await load_from(GOLDEN / NAME, tmp_path)).compiled
    assert len(list((tmp_path / "tvm").iterdir())) == 1


# --- cancelling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["Starting TVM", "generating code", "Loading weights", "Ready"])
async def test_a_load_can_be_cancelled(tmp_path, cache_dir, copy_code, phase):
    cache = tmp_path if phase == "generating code" else cache_dir
    loop = asyncio.get_running_loop()
    seen = asyncio.Event()
    hold = threading.Event()

    def on(_: str, text: str) -> None:
        if phase in text and not seen.is_set():
            loop.call_soon_threadsafe(seen.set)
            hold.wait(DEADLINE)

    runtime = TVMRuntime({"cache_dir": cache})
    task = asyncio.create_task(runtime.load(source_of(GOLDEN / NAME), Reports(on)))
    await asyncio.wait_for(seen.wait(), DEADLINE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, DEADLINE / 2)
    hold.set()
    if cache == tmp_path:
        copy_code(cache)
    # The runtime is as if nothing had happened.
    await runtime.load(source_of(GOLDEN / NAME), Reports())
    assert len(ids_of(await collect(runtime, PROMPT, greedy(max_tokens=2)))) == 2
    await runtime.unload()


# --- bad folders ----------------------------------------------------------------------------------


def edit(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


async def refused(folder: Path, cache: Path, error, match: str) -> str:
    with pytest.raises(error, match=match) as caught:
        await load_from(folder, cache)
    assert type(caught.value) is error
    return caught.value.message


async def test_weights_that_are_missing(copy_of, cache_dir):
    folder = copy_of(NAME)
    (folder / "tensor-cache.json").unlink()
    await refused(folder, cache_dir, ModelFormatError, r"tensor-cache.json is missing.*download")


async def test_a_shard_that_is_missing(copy_of, cache_dir):
    folder = copy_of(NAME)
    (folder / "params_shard_0.bin").unlink()
    await refused(folder, cache_dir, ModelFormatError, r"params_shard_0.bin is missing. Download")


async def test_a_shard_that_is_truncated(copy_of, cache_dir):
    folder = copy_of(NAME)
    shard = folder / "params_shard_0.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    await refused(folder, cache_dir, ModelFormatError, r"params_shard_0.bin has .* Download it")


@pytest.mark.parametrize("options", [{}, {"verify": "always"}, {"verify": True}])
async def test_a_shard_that_is_damaged(copy_of, cache_dir, options):
    folder = copy_of(NAME)
    shard = folder / "params_shard_0.bin"
    data = bytearray(shard.read_bytes())
    data[77] ^= 4
    shard.write_bytes(data)
    with pytest.raises(ModelFormatError, match=r"params_shard_0.bin is damaged.*Download"):
        await load_from(folder, cache_dir, **options)
    for never in ("never", False):
        await load_from(folder, cache_dir, verify=never)


async def test_weights_are_verified_once(copy_of, cache_dir):
    folder = copy_of(NAME)
    for expected in (True, False):
        reports = await load_from(folder, cache_dir, cpu=None)
        assert ("verify" in {r[0] for r in reports.all}) == expected


async def test_a_parameter_that_is_missing(copy_of, cache_dir):
    folder = copy_of(NAME)

    def rename(content):
        content["records"][0]["records"][0]["name"] = "model.something.else"

    edit(folder / "tensor-cache.json", rename)
    message = await refused(folder, cache_dir, ModelFormatError, "no parameter model.embed_tokens")
    assert "download both again" in message


async def test_a_parameter_of_another_shape(copy_of, cache_dir):
    folder = copy_of(NAME)
    edit(folder / "mlc-chat-config.json", lambda c: c["model_config"].update(intermediate_size=64))
    await refused(folder, cache_dir, ModelFormatError, r"gate_up_proj.q_weight is uint32\[192, 8\]")


async def test_weights_of_another_quantization(copy_of, cache_dir):
    folder = copy_of(NAME)
    edit(folder / "mlc-chat-config.json", lambda c: c.update(quantization="q0f32"))
    await refused(folder, cache_dir, ModelFormatError, "no parameter model.embed_tokens.weight")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model_type": "mamba"}, "'mamba'.*llama"),
        ({"quantization": "q3f16_9"}, "'q3f16_9'.*q4f16_1, q4f32_1"),
        ({"sliding_window_size": 128}, "sliding_window_size is 128"),
    ],
)
async def test_what_is_not_supported_is_said(copy_of, cache_dir, change, match):
    folder = copy_of(NAME)
    edit(folder / "mlc-chat-config.json", lambda c: c.update(change))
    await refused(folder, cache_dir, UnsupportedModelError, match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "'dynamic'.*llama3"),
        ({"head_dim": 24}, "head_dim is 24"),
        ({"mlp_bias": True}, "mlp_bias is true"),
    ],
)
async def test_what_is_not_supported_of_an_architecture(copy_of, cache_dir, change, match):
    folder = copy_of(NAME)
    edit(folder / "mlc-chat-config.json", lambda c: c["model_config"].update(change))
    await refused(folder, cache_dir, UnsupportedModelError, match)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", None),
        ("hidden_size", "64"),
        ("num_hidden_layers", 0),
        ("num_key_value_heads", 3),
        ("rms_norm_eps", -1),
        ("vocab_size", 2.5),
        ("tie_word_embeddings", "yes"),
        ("position_embedding_base", True),
        ("num_hidden_layers", 10**5),
        ("num_hidden_layers", 3),
        ("hidden_size", 2**40),
        ("intermediate_size", 10**300),
        ("head_dim", 2**20),
        ("num_attention_heads", 2**30),
        ("vocab_size", 2**31),
        ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", float("inf")),
        ("position_embedding_base", 10**400),
        ("position_embedding_base", 1e-300),
        ("rope_scaling", [8]),
        ("rope_scaling", {"rope_type": "linear", "factor": float("inf")}),
        ("rope_scaling", {"rope_type": "linear", "factor": 1e-300}),
    ],
)
async def test_fields_that_are_wrong_are_named(copy_of, cache_dir, field, value):
    folder = copy_of(NAME)
    edit(folder / "mlc-chat-config.json", lambda c: c["model_config"].update({field: value}))
    message = await refused(folder, cache_dir, ModelFormatError, f"model_config.{field}")
    assert "mlc-chat-config.json" in message


async def test_a_load_ends_whatever_is_thrown(copy_of, cache_dir, monkeypatch):
    class PanicException(BaseException):
        """As Rust's panics come through pyo3."""

    source = source_of(copy_of(NAME))
    for error in (PanicException("gone wrong"), SystemExit(3), MemoryError(), RecursionError()):
        with monkeypatch.context() as patched:
            patched.setattr(TVMRuntime, "_load", raising(error))
            runtime = TVMRuntime({"cache_dir": cache_dir})
            expected = (
                InsufficientMemoryError if isinstance(error, MemoryError) else InternalEngineError
            )
            with pytest.raises(expected, match=type(error).__name__):
                await runtime.load(source, Reports())


def raising(error):
    def fail(*args, **more):
        raise error

    return fail


async def test_model_config_that_is_no_object(copy_of, cache_dir):
    folder = copy_of(NAME)
    edit(folder / "mlc-chat-config.json", lambda c: c.update(model_config=[1]))
    await refused(folder, cache_dir, ModelFormatError, "model_config is .*must be an object")


async def test_a_failed_load_leaves_the_runtime_usable(copy_of, cache_dir):
    folder = copy_of(NAME)
    shard = folder / "params_shard_0.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    runtime = TVMRuntime({"cache_dir": cache_dir})
    with pytest.raises(ModelFormatError):
        await runtime.load(source_of(folder), Reports())
    shard.write_bytes(whole)
    await runtime.load(source_of(folder), Reports())
    golden = golden_data(NAME)
    events = await collect(runtime, golden["prompt"].tolist(), greedy())
    assert ids_of(events) == golden["greedy"].tolist()
    await runtime.unload()


# --- without tvm ----------------------------------------------------------------------------------


def test_importing_the_runtime_imports_neither_tvm_nor_numpy():
    code = (
        "import sys; from mlc_widget.engine.runtimes.tvm.runtime import TVMRuntime; TVMRuntime({});"
        "assert not {'tvm', 'tvm_ffi', 'numpy', 'psutil'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("missing", ["tvm", "numpy", "tvm_ffi_orcjit"])
def test_a_missing_package_is_said_with_the_command_that_installs_it(missing):
    code = f"""
import asyncio, json, sys
from pathlib import Path
sys.modules[{missing!r}] = None
from mlc_widget.engine.runtimes.base import ModelSource
from mlc_widget.engine.runtimes.tvm.runtime import TVMRuntime
folder = Path({str(GOLDEN / NAME)!r})
config = json.loads((folder / "mlc-chat-config.json").read_text())
try:
    source = ModelSource("m", folder, config, None, lambda: None)
    asyncio.run(TVMRuntime({{}}).load(source, lambda *a, **k: None))
except Exception as e:
    print(type(e).__name__, e)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("RuntimeUnavailableError")
    assert 'pip install "mlc-widget[tvm]"' in done.stdout
