"""Models that are downloaded by name, from the first of their sources that has them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.api.errors import (
    MLCEngineError,
    ModelDownloadError,
    ModelFormatError,
    ModelNotFoundError,
    RuntimeUnavailableError,
)
from mlc_widget.engine.store import hub, wheels
from mlc_widget.engine.store.model_folder import fetch, resolve
from mlc_widget.models import builtin_models
from mlc_widget.models.catalogue import catalogue

NAME = "smollm2-135m"


class Sources:
    """The Hub and the package index: what each has cached, and what a download from it gives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cached: dict[str, Path] = {}
        self.gives: dict[str, Path | BaseException] = {}
        self.asked: list[str] = []

        def hub_cached(wanted: hub.HubModel) -> Path | None:
            return self.cached.get("hub")

        def wheels_cached(wanted: wheels.WheelFile) -> Path | None:
            return self.cached.get("wheels")

        monkeypatch.setattr(hub, "cached", hub_cached)
        monkeypatch.setattr(wheels, "cached", wheels_cached)
        monkeypatch.setattr(hub, "download", self._download("hub"))
        monkeypatch.setattr(wheels, "download", self._download("wheels"))

    def _download(self, source: str) -> Callable[..., Any]:
        async def download(model_id: str, report: object) -> Path:
            self.asked.append(source)
            given = self.gives[source]
            if isinstance(given, BaseException):
                raise given
            return given

        return download


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> Sources:
    return Sources(monkeypatch)


def ignore(*args: Any, **kwargs: Any) -> None:
    pass


def test_every_entry_is_whole_and_has_one_sum() -> None:
    for name, model in catalogue().items():
        assert name not in builtin_models()
        parsed = [hub.parse(s) if s.startswith("HF:") else wheels.parse(s) for s in model.sources]
        (sha256,) = {source.sha256 for source in parsed}
        assert sha256
        assert all(isinstance(s, wheels.WheelFile) or s.revision for s in parsed)
        assert 0 < model.nbytes < model.memory_bytes


async def test_what_is_cached_is_taken_before_anything_is_asked(sources: Sources) -> None:
    for source in ("wheels", "hub"):
        sources.cached[source] = Path(source)
        assert await fetch(NAME, ignore) == Path(source)
    assert sources.asked == []


@pytest.mark.parametrize(
    "error", [ModelDownloadError("no network"), ModelNotFoundError("no such repository")]
)
async def test_the_next_source_is_asked(sources: Sources, error: Exception) -> None:
    sources.gives = {"hub": error, "wheels": Path("w")}
    assert await fetch(NAME, ignore) == Path("w")
    assert sources.asked == ["hub", "wheels"]
    sources.gives["hub"] = Path("h")
    assert await fetch(NAME, ignore) == Path("h")
    assert sources.asked == ["hub", "wheels", "hub"]


async def test_a_source_that_does_not_answer_is_left(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    async def silent(model_id: str, report: Callable[..., None]) -> Path:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("hub")
        raise AssertionError

    monkeypatch.setattr(hub, "download", silent)
    monkeypatch.setattr("mlc_widget.engine.store.sources._SILENCE_S", 0.01)
    sources.gives = {"wheels": Path("w")}
    assert await fetch(NAME, ignore) == Path("w")
    assert ended == ["hub"]
    sources.gives = {"wheels": ModelDownloadError("pip says no")}
    with pytest.raises(ModelDownloadError, match=r"(?s)no answer within .*pip says no"):
        await fetch(NAME, ignore)


async def test_a_source_that_is_slow_is_kept(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlc_widget.engine.store.sources._SILENCE_S", 0.01)

    async def slow(model_id: str, report: Callable[..., None]) -> Path:
        report("download", 0.1, "", bytes_done=1, bytes_total=10)
        await asyncio.sleep(0.05)
        return Path("h")

    monkeypatch.setattr(hub, "download", slow)
    assert await fetch(NAME, ignore) == Path("h")
    assert sources.asked == []


async def test_the_error_says_what_failed_for_each(sources: Sources) -> None:
    sources.gives = {
        "hub": ModelDownloadError("the Hub is away"),
        "wheels": ModelNotFoundError("pip says no"),
    }
    with pytest.raises(ModelDownloadError, match=r"(?s)smollm2-135m.*Hub is away.*pip says no"):
        await fetch(NAME, ignore)


@pytest.mark.parametrize(
    "error",
    [asyncio.CancelledError(), ModelFormatError("another sum"), RuntimeUnavailableError("none")],
)
async def test_what_ends_the_load(sources: Sources, error: BaseException) -> None:
    sources.gives = {"hub": error, "wheels": Path("w")}
    with pytest.raises((asyncio.CancelledError, MLCEngineError)) as raised:
        await fetch(NAME, ignore)
    assert type(raised.value) is type(error)
    assert sources.asked == ["hub"]


def test_an_unknown_name_is_told_of_it() -> None:
    with pytest.raises(ModelNotFoundError, match=r"Did you mean 'smollm2-135m'\?"):
        resolve("smolm2-135M")


@pytest.mark.parametrize("model_id", ["user/repo", "user/repo/a.gguf@v1", "user/repo:Q4_K_M"])
async def test_a_repository_needs_no_prefix(sources: Sources, model_id: str) -> None:
    sources.gives = {"hub": Path("h")}
    assert await fetch(model_id, ignore) == Path("h")
    sources.gives = {"hub": ModelNotFoundError("no such repository.", code="c")}
    with pytest.raises(ModelNotFoundError, match=rf"repository. There is no .*'{model_id}' here"):
        await fetch(model_id, ignore)


async def test_what_is_here_goes_before_a_repository(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("user/model/a.gguf", "user/folder/mlc-chat-config.json"):
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text("{}")
    assert await fetch("user/model/a.gguf", ignore) == Path("user/model/a.gguf")
    assert await fetch("user/folder", ignore) == Path("user/folder")
    for name in ("./user/x", "/user/x", "~/user/x", "user", "a/b/c", "user/x.bin/y", "../user/x"):
        with pytest.raises(MLCEngineError):
            await fetch(name, ignore)
    assert sources.asked == []
