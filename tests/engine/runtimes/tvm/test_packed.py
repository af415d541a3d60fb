"""Weights from their packed copy: the same bits as from the model's files, without reading them."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlc_widget.engine.runtimes.base import Sampling
from mlc_widget.engine.runtimes.tvm import loading, packed, weights
from mlc_widget.engine.runtimes.tvm.loading import make_executor
from mlc_widget.engine.runtimes.tvm.options import TVMOptions
from mlc_widget.engine.runtimes.tvm.progress import Cancelled, Progress
from mlc_widget.engine.runtimes.tvm.step_inputs import Span
from mlc_widget.engine.store import packed_weights

from ....waiting import until
from .conftest import GOLDEN, QUICK, Reports, source_of

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
NAME = "gqa-tied-q4f32_1"


@pytest.fixture(autouse=True)
def copies_of_small_models(monkeypatch):
    monkeypatch.setattr(packed_weights, "_SMALLEST", 1)


@pytest.fixture
def own_cache(cache_dir: Path, tmp_path: Path) -> Path:
    """A cache without copies, and with the compiled code that all tests share."""
    for name in ("tvm", "plans"):
        (cache_dir / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache").mkdir(exist_ok=True, mode=0o700)
        (tmp_path / "cache" / name).symlink_to(cache_dir / name)
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """Has an item for each load that has read and packed the weights."""
    found: list[int] = []
    original = weights.load_weights

    def load_weights(*args: Any) -> Any:
        found.append(1)
        return original(*args)

    monkeypatch.setattr(packed, "load_weights", load_weights)
    return found


def executor_of(source: Any, cache: Path, report: Any = None, **options: Any) -> Any:
    progress = Progress(report or Reports(), threading.Event())
    executor, _ = make_executor(source, TVMOptions.parse({"cache_dir": cache, **options}), progress)
    return executor


def save(executor: Any) -> bool:
    task = executor.save_weights(lambda: False)
    if task is None:
        return False
    task.join(60)
    return True


def logits(executor: Any) -> Any:
    executor.prepare()
    return executor.run([Span(PROMPT, 0, [0], range(len(PROMPT)))]).copy()


@pytest.mark.parametrize("name", sorted(QUICK))
def test_the_same_logits_without_reading_the_files(name, own_cache, reads):
    source = source_of(GOLDEN / name)
    first = executor_of(source, own_cache)
    expected = logits(first)
    assert save(first)
    second = executor_of(source, own_cache)
    assert len(reads) == 1
    assert np.array_equal(logits(second), expected)
    assert np.array_equal(logits(executor_of(source, own_cache)), expected)  # shared by two
    assert not save(second)
    assert np.array_equal(
        logits(executor_of(source, own_cache, weight_cache_mode="disable")), expected
    )
    assert len(reads) == 2


@pytest.mark.parametrize("options", [{"weight_cache_mode": "disable"}, {"verify": "always"}])
def test_options_that_neither_use_nor_make_a_copy(options, own_cache, reads):
    source = source_of(GOLDEN / NAME)
    assert not save(executor_of(source, own_cache, **options))
    assert save(executor_of(source, own_cache))
    executor_of(source, own_cache, **options)
    assert len(reads) == 3


def test_the_environment_can_turn_copies_off(own_cache, reads, monkeypatch):
    monkeypatch.setenv(packed_weights.LIMIT_VARIABLE, "0")
    assert not save(executor_of(source_of(GOLDEN / NAME), own_cache))


def test_a_copy_that_cannot_be_read_falls_back_to_the_files(own_cache, reads, monkeypatch):
    source = source_of(GOLDEN / NAME)
    first = executor_of(source, own_cache)
    expected = logits(first)
    save(first)

    def unreadable(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(packed, "_bring_in", unreadable)
    assert np.array_equal(logits(executor_of(source, own_cache)), expected)
    assert len(reads) == 2


@pytest.mark.parametrize("huge", [True, False])
def test_a_large_copy_in_small_pages_is_copied_to_own_memory(own_cache, reads, monkeypatch, huge):
    monkeypatch.setattr(packed, "_LARGE", 1)
    monkeypatch.setattr(packed, "_in_huge_pages", lambda memory: huge)
    source = source_of(GOLDEN / NAME)
    first = executor_of(source, own_cache)
    expected = logits(first)
    assert save(first)
    second = executor_of(source, own_cache)
    assert np.array_equal(logits(second), expected)
    assert second.save_weights.__self__.mapped is huge
    assert not save(second)
    assert len(reads) == 1


def test_weights_on_their_way_to_a_gpu_are_not_copied(own_cache, reads, monkeypatch):
    monkeypatch.setattr(packed, "_LARGE", 1)
    monkeypatch.setattr(packed, "_in_huge_pages", lambda memory: False)
    found = []

    def load_packed(*args: Any, **options: Any) -> Any:
        found.append(load(*args, **{**options, "stay": False}))
        return found[-1]

    load = packed.load_packed
    monkeypatch.setattr(loading, "load_packed", load_packed)
    first = executor_of(source_of(GOLDEN / NAME), own_cache)
    expected = logits(first)
    assert save(first)
    assert np.array_equal(logits(executor_of(source_of(GOLDEN / NAME), own_cache)), expected)
    assert [one.mapped for one in found] == [False, True]


def test_own_memory_is_no_file_in_huge_pages():
    assert not packed._in_huge_pages(np.zeros(1 << 20, np.uint8))


@pytest.mark.parametrize("errno", [22, 14])
def test_systems_that_cannot_bring_pages_in_on_request(own_cache, reads, monkeypatch, errno):
    source = source_of(GOLDEN / NAME)
    first = executor_of(source, own_cache)
    expected = logits(first)
    save(first)
    monkeypatch.setattr(packed, "madvise", lambda *_: False)
    monkeypatch.setattr(packed.ctypes, "get_errno", lambda: errno)
    assert np.array_equal(logits(executor_of(source, own_cache)), expected)
    assert len(reads) == (1 if errno == 22 else 2)  # 14 says that the pages cannot be read


def test_a_load_from_a_copy_reports_bytes_and_can_be_cancelled(own_cache, monkeypatch):
    monkeypatch.setattr(packed, "_PIECE", 4096)
    source = source_of(GOLDEN / NAME)
    save(executor_of(source, own_cache))
    counts: list[Any] = []

    def report(phase: str, fraction: float, text: str, **more: Any) -> None:
        if phase == "load":
            counts.append(more["bytes_done"])
            if len(counts) == 3:
                raise Cancelled

    with pytest.raises(Cancelled):
        executor_of(source, own_cache, report)
    assert counts == sorted(counts)


def test_files_that_changed_just_now_have_no_copy(own_cache, reads, monkeypatch):
    monkeypatch.setattr(packed, "wait_for_tick", lambda identity: False)
    assert not save(executor_of(source_of(GOLDEN / NAME), own_cache))


async def test_a_runtime_keeps_a_copy_behind_the_load(own_cache, reads, load):
    runtime = await load(NAME, cache_dir=own_cache)
    folder = own_cache / "weights"
    await until(lambda: folder.is_dir() and any(folder.glob("*.packed")))
    sampling = Sampling(max_tokens=8, temperature=0.0, top_p=1.0, seed=0, ignore_eos=True)
    answers: list[list[int]] = []
    for _ in range(2):
        events = runtime.generate(PROMPT, sampling, request_id="a")
        answers.append([token async for event in events for token in event.token_ids])
        await runtime.unload()
        runtime = await load(NAME, cache_dir=own_cache)
    assert answers[0] == answers[1]
    assert len(answers[0]) == 8
    assert len(reads) == 1
    assert len(os.listdir(folder)) == 1
