"""An engine of both faces on a core that answers at once, fails and waits as a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlc_widget import AsyncMLCEngineInterface, MLCEngineInterface
from mlc_widget.api.home_loop import HomeLoop


class FakeCore:
    """Answers with the last message and the request's seed; counts what it is asked."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.running = self.most = self.cancelled = 0
        self.errors: dict[str, Exception] = {}
        self.held: Callable[[str], bool] = lambda text: False
        self.gate = asyncio.Event()
        self.finish = "stop"
        self.answer: Callable[[str], str] | None = None
        self.model = {
            "id": "fake",
            "object": "model",
            "created": 1,
            "owned_by": "fake",
            "fingerprint": "f1",
            "max_num_sequence": 8,
        }

    def set_init_progress_callback(self, callback: Any) -> None:
        pass

    async def list_models(self) -> list[dict[str, Any]]:
        return [self.model]

    async def request(self, kind: str, request: dict[str, Any]) -> dict[str, Any]:
        text = request["messages"][-1]["content"]
        self.requests.append(request)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0)
            if self.held(text):
                await self.gate.wait()
            if text in self.errors:
                raise self.errors[text]
            said = self.answer(text) if self.answer else f"{text} {request['seed']}"
            choice = {"message": {"content": said}, "finish_reason": self.finish}
            return {
                "choices": [choice],
                "usage": {"prompt_tokens": 3, "completion_tokens": 2},
            }
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    @property
    def texts(self) -> list[str]:
        return [request["messages"][-1]["content"] for request in self.requests]


@pytest.fixture
def core() -> FakeCore:
    return FakeCore()


@pytest.fixture
def engine(core: FakeCore) -> AsyncMLCEngineInterface:
    return AsyncMLCEngineInterface(core, HomeLoop.shared())  # type: ignore[arg-type]


@pytest.fixture
def blocking(core: FakeCore) -> MLCEngineInterface:
    return MLCEngineInterface(core, HomeLoop.shared())  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, of this test alone; returns the file of replies."""
    monkeypatch.setenv("MLC_WIDGET_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "map" / "replies.sqlite"
