"""Python environments with mlc_llm's stand-in in them, and one without ipywidgets or apache-tvm."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from tests.environments import make_environment

HERE: Final = Path(__file__).parent
STANDIN: Final = HERE / "standin"
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

    The package and the stand-in are in it by their paths.
    """
    return make_environment(cache, (*WORKER_NEEDS, *STANDIN_NEEDS), STANDIN)
