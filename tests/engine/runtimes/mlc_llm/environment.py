"""Python environments with mlc_llm's stand-in in them, and one without ipywidgets or apache-tvm."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

HERE: Final = Path(__file__).parent
STANDIN: Final = HERE / "standin"
ROOT: Final = HERE.parents[3]
WORKER_NEEDS: Final = ("ipykernel>=6.29.5,!=7.0.*", "tokenizers>=0.20")
"""All that the worker's part of mlc_widget needs beside a runtime."""
STANDIN_NEEDS: Final = ("pydantic>=2",)  # as mlc_llm does


def faults(**what: Any) -> dict[str, str]:
    """The environment variable that tells the stand-in what is to go wrong."""
    return {"MLC_LLM_STANDIN": json.dumps(what)}


def standin_environment(**what: Any) -> dict[str, str]:
    """This environment with the stand-in first on the path."""
    return {**os.environ, "PYTHONPATH": str(STANDIN), **faults(**what)}


def kernel_engine_arguments(cache: Path) -> dict[str, Any]:
    """Arguments of kernel engines that run on the stand-in, in an environment of its own.

    Any model folder will do. `cache` keeps the environment.
    """
    return {
        "runtime": "mlc_llm",
        "python": str(make_worker_environment(cache)),
        "runtime_options": {"device": "cpu"},
    }


def make_worker_environment(cache: Path) -> Path:
    """The Python of an environment with what a worker on mlc_llm needs and nothing else.

    It is made once for each set of requirements, from PyPI, and kept in `cache`, by one of the
    processes that ask for it. The package and the stand-in are in it by their paths.
    """
    wanted = (*WORKER_NEEDS, *STANDIN_NEEDS)
    key = hashlib.sha256(repr((wanted, sys.version, str(ROOT))).encode()).hexdigest()[:16]
    folder = cache / key
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    ready = folder / "ready"
    with FileLock(cache / f"{key}.lock"):
        if not ready.is_file():
            venv.create(folder, with_pip=False, clear=True)
            pip = [sys.executable, "-m", "pip", "--python", str(python), "--no-input", "--quiet"]
            subprocess.run([*pip, "install", "--disable-pip-version-check", *wanted], check=True)
            query = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
            packages = subprocess.check_output([python, "-c", query], text=True).strip()
            (Path(packages) / "mlc_widget_tests.pth").write_text(f"{ROOT}\n{STANDIN}\n")
            ready.touch()
    return python
