"""Compiled models on disk: found again without a compiler, never trusted blindly.

An entry is a folder ``<root>/tvm/<key>`` with ``model.o`` (machine code), ``model.ro`` (the virtual
machine's program) and ``entry.json`` (what it was made for, and SHA-256 sums). It is written aside
and renamed into place, so other processes see all of it or nothing. An entry that is damaged, was
made for something else, or belongs to another user is not used.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

_OBJECT, _PROGRAM, _ENTRY = "model.o", "model.ro", "entry.json"

# LLVM writes a module's code, and maps it into the process, for one thread at a time.
_llvm = threading.Lock()


def default_root() -> Path:
    """``$MLC_WIDGET_HOME``, else ``$XDG_CACHE_HOME/mlc_widget``, else ``~/.cache/mlc_widget``."""
    if home := os.environ.get("MLC_WIDGET_HOME"):
        return Path(home).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mlc_widget"


@functools.cache
def sources_digest() -> str:
    """SHA-256 over this package's sources: other code makes other kernels."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for file in sorted(here.rglob("*.py")):
        digest.update(str(file.relative_to(here)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


@functools.cache
def versions() -> Mapping[str, str]:
    """Those of all that compiled code comes from."""
    return MappingProxyType(
        {
            "sources": sources_digest(),
            "tvm": version("apache-tvm"),
            "tvm_ffi": version("apache-tvm-ffi"),
            "orcjit": version("apache-tvm-ffi-orcjit"),
        }
    )


class CompileCache:
    """The entry of one key.

    Args:
        key: Everything that the compiled code depends on beside the versions of our sources and of
            TVM, as JSON values.
        root: The cache's folder.
    """

    def __init__(self, key: Mapping[str, Any], root: Path | None = None) -> None:
        self._key = json.loads(json.dumps({"model": key, **versions()}))
        text = json.dumps(self._key, sort_keys=True).encode()
        self._root = (root or default_root()) / "tvm"
        self.path = self._root / hashlib.sha256(text).hexdigest()[:32]

    def load(self) -> Any | None:
        """The executable, ready for a virtual machine; None if there is no good entry."""
        import tvm_ffi

        code = self._verified()
        if code is None:
            return None
        module = tvm_ffi.get_global_func("ffi.Module.load_from_file.relax.VMExecutable")(
            str(self.path / _PROGRAM)
        )
        with _llvm:
            # It would ask $CXX for a C++ library, which our code does not need.
            module.import_module(_session().load_module(code, cxx=os.devnull))
        return module

    def store(self, executable: Any) -> None:
        """Write a `relax.VMExecutable`.

        Raises:
            OSError: The folder cannot be written.
        """
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = Path(tempfile.mkdtemp(prefix=".new-", dir=self._root))
        try:
            with _llvm:
                executable.mod.imports[0].write_to_file(str(aside / _OBJECT), "o")
                executable.mod.write_to_file(str(aside / _PROGRAM), "ro")
            sums = {name: _sha256(aside / name) for name in (_OBJECT, _PROGRAM)}
            entry = json.dumps({"key": self._key, "sha256": sums}, indent=1)
            (aside / _ENTRY).write_text(entry, encoding="utf-8")
            self._replace(aside)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _replace(self, aside: Path) -> None:
        if self._verified() is not None:  # another process was faster
            return
        for _ in range(2):
            try:
                aside.rename(self.path)
                return
            except OSError:
                # Something that is no good entry is in the way.
                trash = Path(tempfile.mkdtemp(prefix=".old-", dir=self._root))
                try:
                    self.path.rename(trash / "entry")
                except FileNotFoundError:
                    pass
                finally:
                    shutil.rmtree(trash, ignore_errors=True)

    def _verified(self) -> bytes | None:
        """The machine code, if the entry is whole, ours, and made for this key."""
        try:
            if not (private(self._root) and private(self.path)):
                return None
            entry = json.loads((self.path / _ENTRY).read_bytes())
            sums = entry["sha256"]
            code = (self.path / _OBJECT).read_bytes()
            good = (
                entry["key"] == self._key
                and sums[_OBJECT] == hashlib.sha256(code).hexdigest()
                and sums[_PROGRAM] == _sha256(self.path / _PROGRAM)
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return code if good else None


def private(path: Path) -> bool:
    """Whether it is ours and nobody else can have written to that file or folder (POSIX)."""
    if os.name != "posix":
        return True
    info = path.lstat()
    return (
        not stat.S_ISLNK(info.st_mode)
        and info.st_uid == os.getuid()
        and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@functools.cache
def _session() -> Any:
    """The JIT that maps machine code into this process.

    TVM's objects call C functions only and have no constructors, so they need none of ORC's own
    runtime; and one object is too little for the pools that many would share.
    """
    import tvm_ffi_orcjit

    return tvm_ffi_orcjit.ExecutionSession(orc_rt=None, slab_size=-1)
