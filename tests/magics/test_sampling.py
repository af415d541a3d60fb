"""Every sampling field reaches the engine by every door: calls, maps, settings and magics."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from mlc_widget import AsyncMLCEngineInterface, BadRequestError
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.request_params import SamplingParams
from mlc_widget.api.requests import check_chat
from mlc_widget.magics.commands import MLCMagics
from mlc_widget.magics.engine_registry import EngineRegistry
from mlc_widget.widget.options import OPTION_NAMES, checked_options

from ..api.table.conftest import FakeCore

FIELDS: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "typical_p": 0.9,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.5,
    "presence_penalty": -0.5,
    "dry_multiplier": 0.8,
    "dry_base": 1.5,
    "dry_allowed_length": 3,
    "dry_sequence_breakers": ["\n", "END"],
    "logit_bias": {"Paris": 5.0, " the end": -100.0, "7": 1.0},
    "stop": ["END", "a b"],
    "ignore_eos": True,
    "max_tokens": 7,
    "max_completion_tokens": 7,
}


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCore:
    monkeypatch.setenv("MLC_WIDGET_HOME", str(tmp_path / "home"))
    return FakeCore()


@pytest.fixture
def engine(core: FakeCore, monkeypatch: pytest.MonkeyPatch) -> AsyncMLCEngineInterface:
    engine = AsyncMLCEngineInterface(core, HomeLoop.shared())  # type: ignore[arg-type]
    for need in ("need", "need_one_model"):
        monkeypatch.setattr(EngineRegistry, need, lambda self, name: engine)
    return engine


def flags(name: str, value: Any) -> str:
    """The field as flags of a magic."""
    flag = f"--{name.replace('_', '-')}"
    if name in (*OPTION_NAMES, "max_completion_tokens"):
        return f"{flag} {value}"
    return f"--sampling '{name}={json.dumps(value)}'"


def test_no_field_is_forgotten() -> None:
    assert FIELDS.keys() == SamplingParams.__annotations__.keys() - {"model"}


@pytest.mark.parametrize(("name", "value"), FIELDS.items())
async def test_a_field_reaches_the_engine_by_every_door(
    engine: AsyncMLCEngineInterface,
    core: FakeCore,
    shell: InteractiveShell,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: Any,
) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    core.answer = lambda text: text
    await engine.chat.completions.create(messages=messages, **{name: value})
    await engine.map("{x}", [{"x": "map"}], **{name: value})
    shell.user_ns["rows"] = [{"x": "magic"}]
    shell.run_cell(f"%%map rows {flags(name, value)}\n{{x}}")

    asked = []
    monkeypatch.setattr(
        MLCMagics, "_ask", lambda self, text, given: asked.append(self._options(given))
    )
    shell.run_cell(f"%%chat {flags(name, value)}\nHi")
    setting = "max_tokens" if name == "max_completion_tokens" else name
    own = {setting: value} if setting in OPTION_NAMES else {"sampling": {setting: value}}
    asked.append(checked_options(**own))
    requests = [*core.requests, *(options.request(()) for options in asked)]
    assert len(requests) == 5
    checked = check_chat({"messages": messages, name: value})[setting]
    assert [request[setting] for request in requests] == [checked] * 5


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("typical_p", "FIELD=VALUE"),
        ("typical_p=2", "sampling.typical_p = 2"),
        ("typical_p=0.5 typical_p=0.6", "given twice"),
        ("nonsense=1", "no such field; known: dry_allowed_length"),
        ("temperature=1", "give it as temperature"),
        ("max_completion_tokens=5", "no such field"),
        ("messages=[]", "no such field"),
        ("logit_bias=5", "sampling.logit_bias = 5"),
        ("stop=", "sampling.stop"),
    ],
)
@pytest.mark.parametrize("magic", ["chat", "map rows"])
def test_wrong_fields_are_refused_before_work(
    engine: AsyncMLCEngineInterface,
    core: FakeCore,
    shell: InteractiveShell,
    said: Callable[[str], str],
    magic: str,
    given: str,
    complaint: str,
) -> None:
    shell.user_ns |= {"rows": [{"x": 1}], "x": 1}
    assert complaint in said(f"%%{magic} --sampling {given}\nSay {{x}}")
    assert core.requests == []


@pytest.mark.parametrize("value", [5, "typical_p=1", {"typical_p": 2}, {5: 1}, [("top_a", 1)]])
def test_a_wrong_setting_is_refused(value: Any) -> None:
    with pytest.raises(BadRequestError, match="sampling"):
        checked_options(sampling=value)


def test_nothing_given_is_nothing_asked() -> None:
    assert "typical_p" not in checked_options(sampling={"typical_p": None}).request(())
    assert checked_options(sampling={}).request(()) == checked_options().request(())
