"""A folder of safetensors given to an engine: converted once, and used like any other model."""

from __future__ import annotations

import asyncio
import json

import pytest

from mlc_widget import AsyncMLCEngine
from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.engine.converted_models import cancellable
from mlc_widget.engine.store import conversion as conversion_module
from mlc_widget.engine.store import converted_folder

from .store import hf_folders

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLC_WIDGET_HOME", str(tmp_path / "home"))
    made = hf_folders.make(tmp_path / "model")
    own = {"chat_template": TEMPLATE, "eos_token": "<|im_end|>"}
    (made / "tokenizer_config.json").write_text(json.dumps(own))
    return made


async def loaded(folder, chat_opts=None):
    """The engine, on a runtime that needs no compiling, and the phases of its load."""
    phases = []
    engine = AsyncMLCEngine(runtime="scripted")
    engine.set_init_progress_callback(lambda report: phases.append(report.phase))
    try:
        await engine.reload(str(folder), chat_opts)
    except BaseException:
        await engine.terminate()
        raise
    return engine, phases


async def test_it_loads_chats_and_is_converted_once(folder):
    for first in (True, False):
        engine, phases = await loaded(folder, {"quantization": "q4f16_1"})
        try:
            assert ("convert" in phases) == first
            answer = await engine.chat.completions.create(
                messages=[{"role": "user", "content": "Hello"}], max_tokens=8
            )
            # Bytes of the template's text and the message, and three control tokens.
            assert answer.usage.prompt_tokens == len("user\nHello\nassistant\n") + 3
            [model] = await engine.models.list()
            assert model.model_dump()["default_sampling_params"]["temperature"] == 0.4
        finally:
            await engine.terminate()


async def test_a_broken_tokenizer_is_told_before_the_weights_are_converted(folder):
    (folder / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(ModelFormatError, match=r"tokenizer\.json"):
        await loaded(folder)
    assert not list((folder.parent / "home").glob("converted/*q8f16_1*/"))


async def test_what_cannot_be_converted_is_one_error(folder):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="bitsandbytes"):
        await loaded(folder)


async def test_a_cancelled_load_leaves_nothing(folder, monkeypatch):
    """The work is held after its first piece until the load is cancelled."""
    began = asyncio.Event()
    loop = asyncio.get_running_loop()
    convert = converted_folder.convert

    def held(conversion, vocabulary, report, cancelled):
        loop.call_soon_threadsafe(began.set)
        assert cancelled.wait(60)
        return convert(conversion, vocabulary, report, cancelled)

    monkeypatch.setattr(converted_folder, "convert", held)
    load = asyncio.ensure_future(loaded(folder))
    await began.wait()
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    kept = folder.parent / "home" / "converted"
    assert not [p for p in kept.iterdir() if p.is_dir()]


async def test_who_cancels_waits_until_the_work_has_ended():
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work(cancelled):
        assert cancelled.wait(60)
        loop.call_soon_threadsafe(ended.set)
        raise conversion_module.ModelError("what comes of it is not of interest")

    task = asyncio.ensure_future(cancellable(work))
    for _ in range(2):  # also who cancels twice
        await asyncio.sleep(0)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
