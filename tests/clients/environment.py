"""Python environments with the frameworks that docs/clients.md has recipes for."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Final

from filelock import FileLock

ROOT: Final = Path(__file__).parents[2]
MOST_USED: Final = {
    "LangChain": "langchain-openai>=0.3",
    "LlamaIndex": "llama-index-llms-openai-like>=0.5",
    "Pydantic AI": "pydantic-ai-slim[openai]>=1",
    "Instructor": "instructor>=1.7",
    "OpenAI Agents SDK": "openai-agents>=0.5",
}
OTHERS: Final = {
    "LiteLLM": "litellm>=1.70",
    "DSPy": "dspy>=3",
    "smolagents": "smolagents[openai]>=1.20",
}
ALL: Final = {**MOST_USED, **OTHERS}


def make_environment(cache: Path, requirements: tuple[str, ...]) -> Path:
    """The Python of an environment with these packages and what mlc_widget itself needs.

    It is made once for each set of requirements, from PyPI, and kept in `cache`, by one of the
    processes that ask for it. The package is in it by its path.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = (*project["dependencies"], *requirements)
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
            (Path(packages) / "mlc_widget_tests.pth").write_text(f"{ROOT}\n")
            ready.touch()
    return python
