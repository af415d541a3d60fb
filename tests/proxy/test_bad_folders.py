"""A damaged or unknown model gives one clear error, and the worker stays usable."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlc_widget import AsyncKernelMLCEngine
from mlc_widget.api.errors import ModelError

pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")


@pytest.fixture(scope="module")
def tvm_engine() -> Iterator[AsyncKernelMLCEngine]:
    """A worker with the TVM runtime and no model."""
    engine = AsyncKernelMLCEngine(runtime="tvm")
    yield engine
    asyncio.run(engine.terminate())


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def _truncate(folder: Path) -> None:
    shard = folder / "params_shard_0.bin"
    shard.write_bytes(shard.read_bytes()[:-100])


def _set(**fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "mlc-chat-config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


BAD_FOLDERS = {
    "no config": (_remove("mlc-chat-config.json"), "mlc-chat-config.json is missing"),
    "config is not JSON": (_write("mlc-chat-config.json", "{"), "mlc-chat-config.json is not"),
    "config is a list": (_write("mlc-chat-config.json", "[]"), "mlc-chat-config.json holds list"),
    "no tokenizer": (_remove("tokenizer.json"), "tokenizer.json is missing"),
    "tokenizer is not one": (_write("tokenizer.json", "{}"), "tokenizer.json is not"),
    "no index": (_remove("tensor-cache.json"), "tensor-cache.json"),
    "index is not JSON": (_write("tensor-cache.json", "{"), "tensor-cache.json"),
    "no shard": (_remove("params_shard_0.bin"), "params_shard_0.bin"),
    "truncated shard": (_truncate, "params_shard_0.bin"),
    "unknown architecture": (_set(model_type="perceptron"), "perceptron"),
    "unknown quantization": (_set(quantization="q1f8"), "q1f8"),
    "no template": (_set(conv_template=None), "conv_template"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
async def test_a_bad_folder_gives_one_clear_error(
    tvm_engine: AsyncKernelMLCEngine, tiny_model: Path, tmp_path: Path, case: str
) -> None:
    damage, named = BAD_FOLDERS[case]
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    damage(folder)
    pid = tvm_engine.worker_pid
    with pytest.raises(ModelError, match=named.replace(".", r"\.")) as caught:
        await tvm_engine.reload(str(folder))
    assert "\n" not in caught.value.message
    assert tvm_engine.state == "idle"
    assert await tvm_engine.models.list() == []
    assert pid in (None, tvm_engine.worker_pid)


async def test_the_worker_is_still_usable(
    tvm_engine: AsyncKernelMLCEngine, tiny_model: Path
) -> None:
    await tvm_engine.reload(str(tiny_model))
    answer = await tvm_engine.chat.completions.create(
        messages=[{"role": "user", "content": "Hello!"}], max_tokens=3
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
