"""The models that are shipped in this package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

CONFIG_FILE: Final = "mlc-chat-config.json"
"""The file that makes a folder a model in MLC format."""


def builtin_models() -> dict[str, Path]:
    """Their folders, by name."""
    root = Path(str(files(__name__)))
    return {p.name: p for p in sorted(root.iterdir()) if (p / CONFIG_FILE).is_file()}
