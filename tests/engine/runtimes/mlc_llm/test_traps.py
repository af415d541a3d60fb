"""The stand-in has the real package's traps: without them, the runtime's tests would prove little.

Every one of them ends in a hang or a crash. What the runtime makes of them is in test_runtime.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .environment import HERE, standin_environment
from .model_folder import write_model_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("models") / "trapped")


def spring(trap: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE / "traps.py"), trap, str(folder)],
        env=standin_environment(step_s=0.001),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("trap", ["logit_bias", "prompt id"])
def test_an_id_out_of_vocabulary_crashes(trap: str, folder: Path) -> None:
    assert spring(f"{trap} out of vocabulary", folder).returncode == -signal.SIGSEGV


def test_a_malformed_schema_makes_this_and_every_later_request_hang(folder: Path) -> None:
    done = spring("malformed JSON schema", folder)
    assert done.stdout.split() == ["hang", "hang"]
    assert "Traceback" in done.stderr  # all that ever tells of it


def test_schemas_that_are_right_hang_too(folder: Path) -> None:
    assert spring("schemas that are right", folder).stdout.split() == ["hang"] * 3


def test_more_than_five_alternatives_hang(folder: Path) -> None:
    assert spring("six top_logprobs", folder).stdout.split() == ["hang"]


def test_a_small_window_has_no_room_for_a_question_for_metrics(folder: Path) -> None:
    assert spring("metrics in a small window", folder).stdout.split() == ["BadRequestError"]


def test_an_unknown_mode_makes_the_constructor_hang(folder: Path) -> None:
    done = spring("constructor with an unknown mode", folder)
    assert done.stdout.split() == ["hang"]
    assert "Exception in thread" in done.stderr


def test_an_open_stream_hangs_at_terminate(folder: Path) -> None:
    assert spring("stream open at terminate()", folder).stdout.split() == ["hang"]


def test_without_terminate_the_process_does_not_end(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(HERE / "traps.py"), "no terminate at exit", str(folder)],
        env=standin_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "leaving\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)
        process.kill()
