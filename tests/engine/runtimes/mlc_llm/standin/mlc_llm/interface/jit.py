from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


@dataclass
class JITResult:
    model_lib_path: str
    system_lib_prefix: str | None = None


def _cache() -> Path:
    home = Path(os.environ.get("MLC_LLM_HOME") or Path(tempfile.gettempdir()) / "mlc_llm-standin")
    folder = home / "model_lib"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def jit(
    model_path: Path, overrides: dict[str, Any], device: Any, system_lib_prefix: str | None = None
) -> JITResult:
    policy = os.environ.get("MLC_JIT_POLICY", "ON")
    logger.info("MLC_JIT_POLICY = %s. Can be one of: ON, OFF, REDO, READONLY", policy)
    if policy == "OFF":
        raise RuntimeError("JIT is disabled by MLC_JIT_POLICY=OFF")
    config = json.loads((model_path / "mlc-chat-config.json").read_text())
    key = json.dumps([config["model_config"], overrides, str(device)], sort_keys=True)
    library = _cache() / f"{hashlib.md5(key.encode()).hexdigest()}.so"
    if library.is_file() and policy in ("ON", "READONLY"):
        logger.info("Using cached model lib: %s", library)
        return JITResult(str(library))
    if policy == "READONLY":
        raise RuntimeError(
            "No cached model lib found, and JIT is disabled by MLC_JIT_POLICY=READONLY"
        )
    output = library.with_suffix(f".{os.getpid()}.tmp")
    logger.info("Compiling using commands below:")
    command = [sys.executable, "-m", "mlc_llm", "compile", str(model_path)]
    subprocess.run([*command, "--output", str(output)], check=False)
    if not output.is_file():
        raise RuntimeError("Cannot find compilation output, compilation failed")
    output.replace(library)
    logger.info("Using compiled model lib: %s", library)
    return JITResult(str(library))
