"""The tiny models of `families` as transformers saves them, and transformers' logits."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from . import hf_folders

sys.path.append(str(Path(__file__).parents[3] / "tools"))
import families

FIXTURES = Path(__file__).parents[2] / "fixtures" / "families"


def golden(name: str, quantization: str) -> np.ndarray[Any, Any]:
    """Transformers' logits at each position of the prompt."""
    with np.load(FIXTURES / f"{name}.npz") as file:
        return file["logits" if quantization == "q0f32" else f"logits_{quantization}"]


def state(name: str) -> dict[str, np.ndarray[Any, Any]]:
    """The weights by transformers' names."""
    with np.load(FIXTURES / f"{name}.npz") as file:
        shapes = json.loads(str(file["shapes"]))
    return families.state(name, {key: tuple(shape) for key, shape in shapes.items()})


def transformers_folder(folder: Path, name: str) -> Path:
    """A folder as transformers saves it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(families.CONFIGS[name]))
    (folder / "tokenizer_config.json").write_text("{}")
    shutil.copy(hf_folders.FIXTURES / "llama" / "tokenizer.json", folder)
    hf_folders.write_tensors(folder / "model.safetensors", state(name))
    return folder
