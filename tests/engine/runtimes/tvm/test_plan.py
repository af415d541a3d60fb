"""What is kept of a model beside its code: a second load needs no compiler, and trusts nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlc_widget.engine.runtimes.tvm import plan
from mlc_widget.engine.runtimes.tvm.layout_records import layout_of
from mlc_widget.engine.runtimes.tvm.layouts import (
    Codes,
    FloatBlocks,
    Scales,
    Vector,
)

from .conftest import DEADLINE, GOLDEN, ROOT, executor_for, golden_data, run_chunks

FIXTURES = GOLDEN.parent
NAME = "gqa-tied-q4f32_1"

needs_cpuinfo = pytest.mark.skipif(plan.host() is None, reason="no /proc/cpuinfo")


def logits(cache_dir) -> np.ndarray:
    executor = executor_for(NAME, cache_dir)
    return run_chunks(executor, golden_data(NAME)["prompt"].tolist(), [84])


@needs_cpuinfo
def test_a_second_load_starts_no_compiler(tmp_path):
    expected = logits(tmp_path)
    code = f"""
import asyncio, json, sys
from pathlib import Path
from mlc_widget.engine.runtimes.base import ModelSource, Sampling
from mlc_widget.engine.runtimes.tvm.runtime import TVMRuntime
from mlc_widget.engine.text.tokenizer import Tokenizer

async def main():
    folder = Path({str(GOLDEN / NAME)!r})
    config = json.loads((folder / "mlc-chat-config.json").read_text()) | {{"numerics": "faithful"}}
    runtime = TVMRuntime({{"cache_dir": Path({str(tmp_path)!r})}})
    await runtime.load(
        ModelSource("m", folder, config, Tokenizer.from_folder(folder), opener(folder)),
        lambda *a, **k: None,
    )
    sampling = Sampling(max_tokens=8, temperature=0.0, top_p=1.0, seed=0)
    prompt = {golden_data(NAME)["prompt"].tolist()}
    ids = [i async for e in runtime.generate(prompt, sampling, request_id="r") for i in e.token_ids]
    await runtime.unload()
    assert "tvm" not in sys.modules
    assert "libtvm_compiler" not in Path("/proc/self/maps").read_text()
    print(json.dumps(ids))

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE,
    )
    assert json.loads(done.stdout) == golden_data(NAME)["greedy"].tolist()[:8]
    assert np.array_equal(logits(tmp_path), expected)


def embedded(folder: str, cache_dir: Path, *, compiled: bool) -> list[list[float]]:
    """Vectors of a model that another process loads; it says whether it needed the compiler."""
    code = f"""
import asyncio, json
from pathlib import Path
from mlc_widget import AsyncMLCEngine
from mlc_widget.engine.store.tensor_cache import opener

async def main():
    engine = AsyncMLCEngine(runtime="tvm", runtime_options={{"cache_dir": {str(cache_dir)!r}}})
    await engine.reload({str(FIXTURES / folder)!r}, chat_opts={{"model_task": "embedding"}})
    made = await engine.embeddings.create(input=[[7, 9, 12], [30]], encoding_format="float")
    loaded = "libtvm_compiler" in Path("/proc/self/maps").read_text()
    await engine.terminate()
    print(json.dumps([loaded, [d.embedding for d in made.data]]))

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=DEADLINE,
    )
    loaded, vectors = json.loads(done.stdout)
    assert loaded == compiled
    return vectors


@needs_cpuinfo
@pytest.mark.parametrize("folder", ["embeddings/bert", "architectures/llama"])
def test_a_second_load_of_an_embedding_model_starts_no_compiler(tmp_path, folder):
    first = embedded(folder, tmp_path, compiled=True)
    assert embedded(folder, tmp_path, compiled=False) == first


@needs_cpuinfo
@pytest.mark.parametrize(
    "damage",
    [
        "other key",
        "others may write",
        pytest.param("empty", marks=pytest.mark.soak),
        pytest.param("unknown layout", marks=pytest.mark.soak),
    ],
)
def test_a_plan_that_is_not_good_is_made_anew(tmp_path, damage):
    expected = logits(tmp_path)
    (file,) = (tmp_path / "plans").iterdir()
    good = file.read_text()
    entry = json.loads(good)
    if damage == "other key":
        entry["key"]["sources"] = "others"
    elif damage == "unknown layout":
        entry["plan"]["parameters"][0][1] = ["Diagonals", 3]
    file.write_text("" if damage == "empty" else json.dumps(entry))
    if damage == "others may write":
        file.chmod(0o666)
    assert np.array_equal(logits(tmp_path), expected)
    (again,) = (tmp_path / "plans").iterdir()
    assert again.read_text() == good
    assert again.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "layout",
    [
        Vector(5, 40),
        FloatBlocks(40, (24, 8), "float16"),
        Codes(40, (24, 8), 8, transposed=True),
        Scales(40, (24, 8), "float16", transposed=True),
    ],
    ids=lambda layout: type(layout).__name__,
)
def test_layouts_come_back_from_their_records(layout):
    again = layout_of(json.loads(json.dumps(layout.record())))
    assert vars(again) == vars(layout)
    assert type(again) is type(layout)
