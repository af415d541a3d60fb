"""Python environments with the frameworks that docs/clients.md has recipes for."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final

from tests.environments import ROOT, make_environment

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


def make_client_environment(cache: Path, requirements: tuple[str, ...]) -> Path:
    """The Python of an environment with these packages and what mlc_widget itself needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return make_environment(cache, (*project["dependencies"], *requirements))
