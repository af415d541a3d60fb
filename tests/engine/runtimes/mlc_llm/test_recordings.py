"""The stand-in answers every recorded call as the real package did, chunk for chunk."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from .environment import HERE, standin_environment
from .model_folder import write_model_folder
from .traps import TRAPS

RECORDINGS = HERE / "recordings.json"
CALLS = json.loads(RECORDINGS.read_text())["recordings"]
MEASURED = re.compile(r"(_s|_per_s|_time_sum|latency_s)$")


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = write_model_folder(tmp_path_factory.mktemp("models") / "replayed")
    done = subprocess.run(
        [sys.executable, str(HERE / "replay.py"), str(folder), str(RECORDINGS)],
        env=standin_environment(recordings=str(RECORDINGS)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout)
    return results


def normalized(value: Any, key: str = "") -> Any:
    """Without what differs from run to run: ids, times, speeds, pydantic's version."""
    if isinstance(value, dict):
        if key == "extra":
            return {k: None if MEASURED.search(k) else v for k, v in value.items()}
        return {k: normalized(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [normalized(v) for v in value]
    if key == "id" and value is not None:
        return re.sub(r"[0-9a-f]{32}$", "<hex>", value)
    if key == "created":
        return "<time>"
    if key == "message" and isinstance(value, str):
        return re.sub(r"pydantic\.dev/[\d.]+/", "pydantic.dev/<version>/", value)
    return value


ANSWERED = [call for call in CALLS if call["name"] not in TRAPS]


def test_every_recording_is_replayed_or_a_trap(replayed: dict[str, Any]) -> None:
    assert len(CALLS) == 53
    unanswered = {call["name"] for call in CALLS} - replayed.keys()
    assert unanswered <= TRAPS.keys()
    for call in CALLS:  # what test_traps makes in processes of their own
        trapped = call.get("outcome") in ("hang", "process crash")
        assert trapped == (call["name"] in unanswered)


@pytest.mark.parametrize("call", ANSWERED, ids=[c["name"] for c in ANSWERED])
def test_recorded_call(call: dict[str, Any], replayed: dict[str, Any]) -> None:
    name = call["name"]
    expected = {k: v for k, v in call.items() if k not in ("name", "api", "kwargs")}
    actual = replayed[name]
    if name == "metrics":
        assert expected["metrics"].keys() >= actual["metrics"].keys()
        assert {"prompt_tokens_sum", "completion_tokens_sum", "last_finished_request"} <= (
            actual["metrics"].keys()
        )
        assert "prompt_tokens_sum\t" in actual["prometheus_text"]
        return
    assert normalized(actual) == normalized(expected)
