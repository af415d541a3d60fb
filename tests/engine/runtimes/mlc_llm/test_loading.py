"""Loads on mlc_llm: their phases, their failures, their end."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlc_widget import AsyncKernelMLCEngine, InitProgressReport
from mlc_widget.api.errors import (
    BadRequestError,
    EngineDeadError,
    InternalEngineError,
    LoadCancelledError,
    MLCEngineError,
    ModelFormatError,
    RuntimeUnavailableError,
)

from ....kinds import but_for_soak
from ....waiting import until
from .conftest import EngineFactory, Package
from .model_folder import write_model_folder

ASK: dict[str, Any] = {"prompt": "Hello", "max_tokens": 5}


async def test_a_load_reports_its_phases(
    package: Package, make_engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[InitProgressReport] = []
    engine = await make_engine(
        package,
        load=False,
        compiled=False,
        trouble={"compile_s": 0.8, "load_s": 0.4},
        init_progress_callback=reports.append,
    )
    if not package.real:
        monkeypatch.setenv("MLC_LLM_HOME", str(tmp_path))
    await engine.reload(str(package.model))
    phases = list(dict.fromkeys(r.phase for r in reports))
    assert phases == ["resolve", "verify", "compile", "load", "warm up"]
    progress = [r.progress for r in reports]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    loading = [r for r in reports if r.phase == "load" and r.bytes_total]
    if package.real:
        return
    assert loading[-1].bytes_total == 2 * 64 * 4096
    texts = [r.text for r in reports]
    assert "Optimizing kernels" in texts  # from the compiler's log
    assert any("1,234 MB" in t or "1,235 MB" in t for t in texts)  # from the engine's


async def test_a_compiled_library_is_used_again(
    standin: Package, make_engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for expected in ("Compiled", "Compiled before"):
        texts: list[str] = []
        engine = await make_engine(
            standin,
            load=False,
            compiled=False,
            init_progress_callback=lambda r, t=texts: t.append(r.text),
        )
        monkeypatch.setenv("MLC_LLM_HOME", str(tmp_path))
        await engine.reload(str(standin.model))
        assert expected in texts
        await engine.terminate()
    assert len(list((tmp_path / "model_lib").iterdir())) == 1


@pytest.mark.parametrize("taken_back", [pytest.param(0, marks=pytest.mark.soak), 62])
async def test_a_window_smaller_than_the_system_message_and_tokens_that_were_taken_back(
    standin: Package, make_engine: EngineFactory, taken_back: int
) -> None:
    engine = await make_engine(standin, load=False, trouble={"taken_back": taken_back})
    await engine.reload(str(standin.model), {"context_window_size": 8})
    answer = await engine.completions.create(
        prompt=[5], max_tokens=5, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    assert answer.choices[0].finish_reason == "length"


async def test_chat_opts_reach_it(standin: Package, make_engine: EngineFactory) -> None:
    engine = await make_engine(standin, load=False)
    await engine.reload(str(standin.model), {"context_window_size": 300})
    (model,) = await engine.models.list()
    assert model.context_window_size == 300


@pytest.mark.parametrize("real_echo", [False, pytest.param(True, marks=pytest.mark.mlc_llm)])
async def test_mock_echo(
    real_echo: bool,
    request: pytest.FixtureRequest,
    make_engine: EngineFactory,
) -> None:
    """mlc_llm's engine without weights, which gives the prompt back."""
    from .conftest import real_package

    package = real_package() if real_echo else request.getfixturevalue("standin")
    engine = await make_engine(
        package, load=False, compiled=False, options={"model_lib": "mock://echo", "device": "cpu"}
    )
    await engine.reload(str(package.model))
    answer = await engine.completions.create(prompt="Hello echo", max_tokens=100)
    assert "Hello echo" in answer.choices[0].text
    assert answer.choices[0].finish_reason == "stop"


FAILURES: dict[str, tuple[dict[str, Any], type[MLCEngineError], str]] = {
    "thread dies": ({"load_dies": "no such kernel"}, InternalEngineError, "no such kernel"),
    "crash": ({"load_crashes": True}, EngineDeadError, "SIGSEGV"),
    "hang": ({"load_hangs": True}, EngineDeadError, "no progress"),
    "compiler fails": ({"compile_fails": "mamba"}, MLCEngineError, "mamba"),
    "no device": ({}, RuntimeUnavailableError, "cuda:7"),
}


@pytest.mark.parametrize("case", but_for_soak(FAILURES, "thread dies", "crash"))
async def test_a_load_that_fails_says_why_and_the_next_one_works(
    case: str,
    standin: Package,
    make_engine: EngineFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trouble, error, message = FAILURES[case]
    options = {"stall_timeout": 1.0, **({"device": "cuda:7"} if case == "no device" else {})}
    engine = await make_engine(
        standin,
        load=False,
        compiled=case != "compiler fails",
        options=options,
        trouble=trouble,
    )
    monkeypatch.setenv("MLC_LLM_HOME", str(tmp_path))
    with pytest.raises(error, match=message):
        await engine.reload(str(standin.model))
    monkeypatch.setenv("MLC_LLM_STANDIN", "{}")
    if case in ("compiler fails", "no device"):  # mlc_llm was not touched: the worker stays
        return
    await engine.reload(str(standin.model))
    assert (await engine.completions.create(**ASK)).choices[0].text


async def test_missing_weights_are_found_before_mlc_llm_is(
    standin: Package, make_engine: EngineFactory, tmp_path: Path
) -> None:
    folder = write_model_folder(tmp_path / "model")
    shard = folder / "params_shard_1.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    engine = await make_engine(standin, load=False)
    with pytest.raises(ModelFormatError, match=r"params_shard_1\.bin has .* and should have"):
        await engine.reload(str(folder))
    shard.unlink()
    with pytest.raises(ModelFormatError, match=r"params_shard_1\.bin is missing"):
        await engine.reload(str(folder))
    await engine.reload(str(standin.model))  # mlc_llm was not touched: the process still can
    assert (await engine.completions.create(**ASK)).choices[0].text


async def test_cancelling_a_load_ends_the_compiler(
    standin: Package, make_engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await make_engine(standin, load=False, compiled=False, trouble={"compile_hangs": True})
    monkeypatch.setenv("MLC_LLM_HOME", str(tmp_path))
    load = asyncio.ensure_future(engine.reload(str(standin.model)))
    compilers = await until(lambda: _compilers(engine))
    load.cancel()
    with pytest.raises((asyncio.CancelledError, LoadCancelledError)):
        await load
    _, alive = await asyncio.to_thread(psutil.wait_procs, compilers, 10)
    assert not alive


async def test_a_killed_worker_takes_its_compiler_with_it(
    standin: Package, make_engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await make_engine(standin, load=False, compiled=False, trouble={"compile_hangs": True})
    monkeypatch.setenv("MLC_LLM_HOME", str(tmp_path))
    load = asyncio.ensure_future(engine.reload(str(standin.model)))
    compilers = await until(lambda: _compilers(engine))
    worker = engine._core.worker_pid
    assert worker is not None
    psutil.Process(worker).kill()
    with pytest.raises(EngineDeadError):
        await load
    _, alive = await asyncio.to_thread(psutil.wait_procs, compilers, 10)
    assert not alive


def _compilers(engine: AsyncKernelMLCEngine) -> list[psutil.Process]:
    """The processes of a compilation, once the compiler itself runs."""
    worker = engine._core.worker_pid
    if worker is None:
        return []
    compilers = []
    for child in psutil.Process(worker).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            command = child.cmdline()
            if "mlc_llm" in command or any("compilation_child" in word for word in command):
                compilers.append(child)
    return compilers if len(compilers) == 2 else []


async def test_a_cancelled_load_gives_its_process_up(
    standin: Package, make_engine: EngineFactory
) -> None:
    engine = await make_engine(standin, load=False, trouble={"load_hangs": True})
    reached = asyncio.Event()
    engine.set_init_progress_callback(lambda r: reached.set() if r.phase == "load" else None)
    load = asyncio.ensure_future(engine.reload(str(standin.model)))
    await asyncio.wait_for(reached.wait(), 30)
    worker = psutil.Process(engine._core.worker_pid)
    load.cancel()
    with pytest.raises((asyncio.CancelledError, LoadCancelledError)):
        await load
    await asyncio.to_thread(worker.wait, 10)


async def test_a_newer_load_ends_one_that_hangs(
    standin: Package, make_engine: EngineFactory, tmp_path: Path
) -> None:
    once = tmp_path / "once"
    engine = await make_engine(standin, load=False, trouble={"load_hangs": True, "once": str(once)})
    first = asyncio.ensure_future(engine.reload(str(standin.model)))
    await until(once.exists)  # ended before it hangs, it would leave that to the newer load
    await engine.reload(str(standin.model), {"context_window_size": 300})
    with pytest.raises(LoadCancelledError):
        await first
    assert (await engine.completions.create(**ASK)).choices[0].text


async def test_another_model_and_unload_take_a_fresh_process(
    standin: Package, make_engine: EngineFactory, tmp_path: Path
) -> None:
    other = write_model_folder(tmp_path / "other")
    engine = await make_engine(standin)
    pids = [engine._core.worker_pid]
    await engine.reload(str(other))
    pids.append(engine._core.worker_pid)
    assert (await engine.completions.create(**ASK)).model == str(other)
    await engine.unload()
    assert not psutil.pid_exists(pids[-1] or 0)
    await engine.reload(str(standin.model))
    pids.append(engine._core.worker_pid)
    assert (await engine.completions.create(**ASK)).choices[0].text
    assert len(set(pids)) == 3


async def test_one_model_for_one_process(
    standin: Package, make_engine: EngineFactory, tmp_path: Path
) -> None:
    engine = await make_engine(standin, load=False)
    other = write_model_folder(tmp_path / "other")
    with pytest.raises(BadRequestError, match="an engine for each"):
        await engine.reload([str(standin.model), str(other)])


async def test_an_unknown_option_is_refused_by_name(
    standin: Package, make_engine: EngineFactory
) -> None:
    engine = await make_engine(standin, load=False, options={"mode": "fast"})
    with pytest.raises(BadRequestError, match=r"runtime_options\.mode = 'fast'"):
        await engine.reload(str(standin.model))


async def test_embeddings(standin: Package, make_engine: EngineFactory, tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "embedder", model_task="embedding")
    engine = await make_engine(standin, load=False)
    await engine.reload(str(folder))
    answer = await engine.embeddings.create(input=["Hello", "Hello", "Zwölf Boxkämpfer"])
    vectors = [d.embedding for d in answer.data]
    assert vectors[0] == vectors[1] != vectors[2]
    assert sum(x * x for x in vectors[0]) == pytest.approx(1.0)
    with pytest.raises(MLCEngineError, match="is an embedding model"):
        await engine.completions.create(**ASK)


async def test_embeddings_of_an_older_mlc_llm(
    standin: Package, make_engine: EngineFactory, tmp_path: Path
) -> None:
    folder = write_model_folder(tmp_path / "embedder", model_task="embedding")
    engine = await make_engine(standin, load=False, trouble={"no_embeddings": True})
    with pytest.raises(RuntimeUnavailableError, match="AsyncEmbeddingEngine"):
        await engine.reload(str(folder))


async def test_another_version_without_exact_generation(
    standin: Package, make_engine: EngineFactory
) -> None:
    engine = await make_engine(standin, trouble={"no_generate": True})
    assert (await engine.completions.create(**ASK)).choices[0].text
    with pytest.raises(BadRequestError, match="logprobs"):
        await engine.completions.create(logprobs=2, **ASK)
