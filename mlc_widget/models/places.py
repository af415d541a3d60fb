"""Where downloaded models are kept, and how much of a model this machine has room for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from mlc_widget.api.places import user_cache_root as user_cache_root


def hub_cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder in which `huggingface_hub` keeps repositories."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if value := environ.get(name):
            return Path(os.path.expandvars(value)).expanduser()
    if home := environ.get("HF_HOME"):
        return Path(os.path.expandvars(home)).expanduser() / "hub"
    base = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base).expanduser() / "huggingface" / "hub"


def ollama_root() -> Path:
    """Where Ollama keeps its models."""
    return Path(os.environ.get("OLLAMA_MODELS") or "~/.ollama/models").expanduser()


def llama_cpp_root() -> Path:
    """Where llama.cpp keeps what it has downloaded."""
    return _cache_of("LLAMA_CACHE", "llama.cpp")


def mlc_llm_root() -> Path:
    """Where mlc_llm keeps what it has downloaded and compiled."""
    return _cache_of("MLC_LLM_HOME", "mlc_llm")


def lm_studio_roots() -> list[Path]:
    """Where LM Studio keeps its models, and where it did before."""
    return [Path(root).expanduser() for root in ("~/.lmstudio/models", "~/.cache/lm-studio/models")]


def _cache_of(variable: str, name: str) -> Path:
    if root := os.environ.get(variable):
        return Path(root).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / name


def total_memory() -> int | None:
    """Bytes of this machine's memory, or of its control group's if less; None if unknown."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
    with contextlib.suppress(OSError, ValueError):  # "max", or no control groups
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def weight_budget() -> int | None:
    """Bytes of weights that leave room for the system and for a KV cache; None if unknown."""
    total = total_memory()
    return None if total is None else int(total * 0.7)
