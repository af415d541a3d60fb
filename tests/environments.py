"""Python environments beside the tests' own, made once and kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

from filelock import FileLock

ROOT: Final = Path(__file__).parents[1]


def make_environment(cache: Path, wanted: tuple[str, ...], *paths: Path) -> Path:
    """The Python of an environment with these packages, and mlc_widget by its path.

    It is made once for each set of requirements, from PyPI, and kept in `cache`, by one of the
    processes that ask for it.

    Args:
        cache: The folder of all environments.
        wanted: Requirements, as pip takes them.
        paths: Folders to import from, beside the package's.
    """
    lines = [str(path) for path in (ROOT, *paths)]
    key = hashlib.sha256(repr((wanted, sys.version, *lines)).encode()).hexdigest()[:16]
    folder = cache / key
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    ready = folder / "ready"
    with FileLock(cache / f"{key}.lock"):
        if not ready.is_file():
            venv.create(folder, with_pip=False, clear=True)
            install = [sys.executable, "-m", "uv", "pip", "install", "--quiet"]
            subprocess.run(
                [*install, "--python", str(python), *wanted],
                env={**os.environ, "UV_SYSTEM_CERTS": "true"},  # trust whom pip trusts
                check=True,
            )
            query = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
            packages = subprocess.check_output([python, "-c", query], text=True).strip()
            (Path(packages) / "mlc_widget_tests.pth").write_text("".join(f"{p}\n" for p in lines))
            ready.touch()
    return python
