"""mlc_llm in the caller's own process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .environment import HERE, standin_environment
from .model_folder import write_model_folder


def test_a_second_load_is_refused_and_leaving_does_not_hang(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, str(HERE / "direct.py"), str(folder)],
        env={**standin_environment(step_s=0.001), "MLC_LLM_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["fresh_process_needed", "length", "1"]  # the first model stays
