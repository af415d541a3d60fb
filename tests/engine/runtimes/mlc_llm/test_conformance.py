"""The conformance suite for every engine, on mlc_llm."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.environments import ROOT

from .conftest import Package
from .environment import faults


@pytest.mark.parametrize(
    "left_out",
    [
        # Its tests load models again and again, each in a fresh process; test_loading.py has some.
        pytest.param(["--ignore=tests/conformance/test_state.py"], id="without state"),
        pytest.param([], id="all", marks=pytest.mark.soak),
    ],
)
def test_the_conformance_suite(package: Package, left_out: list[str]) -> None:
    options = dict(package.engine["runtime_options"])
    arguments = ["--runtime", "mlc_llm", "--worker-python", package.engine["python"]]
    if package.real:
        arguments += ["--model-folder", str(package.model)]
    else:
        options["model_lib"] = str(package.library)
    arguments += left_out
    arguments += ["--runtime-options", json.dumps(options), "--engines", "kernel-async"]
    environment = {**os.environ, **package.environment}
    if not package.real:  # a text must take a moment to be interrupted
        environment |= faults(step_s=0.002)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/conformance", "-q", "--timeout=60", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=220,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert "passed" in done.stdout
