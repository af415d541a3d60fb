"""A cache of compiled models on disk, which are checked and then loaded without a compiler.

An entry is a file ``<root>/tvm/<key>.code``: a line of JSON that says what it was made for and how
long its parts are, then the parts: the virtual machine's program, the machine code, and the code
for a GPU, if there is any. An entry is not used if it is damaged, was made
for something else, or could have been written by another user (see `UserCache`).
"""

from __future__ import annotations

import errno
import functools
import glob
import hashlib
import itertools
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from mlc_widget.engine.runtimes.tvm import device_code
from mlc_widget.engine.store.user_cache import UserCache

_ROOM: Final = 1 << 26
"""The free space in bytes that is required before LLVM writes code; a model's is below 1 MB."""

# Only one thread at a time may have LLVM write a module's code, or map it into the process.
_llvm = threading.Lock()


@functools.cache
def sources_digest() -> str:
    """The SHA-256 of this package's sources, since other sources may make other kernels."""
    digest = hashlib.sha256()
    here = os.path.dirname(__file__)
    names = (glob.glob(f"**/*.{end}", root_dir=here, recursive=True) for end in ("py", "cuh"))
    for name in sorted(itertools.chain.from_iterable(names)):
        digest.update(name.encode())
        with open(os.path.join(here, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


@functools.cache
def versions() -> Mapping[str, str]:
    """The versions of everything that determines compiled code."""
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
        key: Everything on which the compiled code depends, except for the versions of our sources
            and of TVM, as JSON values.
        root: The cache's folder.
    """

    def __init__(self, key: Mapping[str, Any], root: Path | None = None) -> None:
        self._key = json.loads(json.dumps({"model": key, **versions()}))
        text = json.dumps(self._key, sort_keys=True).encode()
        self._name = f"{hashlib.sha256(text).hexdigest()[:32]}.code"
        self._cache = UserCache("tvm", root)

    @property
    def path(self) -> Path:
        """The entry's file."""
        return self._cache.folder / self._name

    def load(self) -> Any | None:
        """The executable, ready for a virtual machine; None if there is no good entry."""
        content = self._cache.read(self._name)
        code = None if content is None else self._code(content)
        return None if code is None else _module(code)

    def store(self, executable: Any) -> Any:
        """Write a `relax.VMExecutable`, if the cache can be written.

        Returns:
            The executable, ready for a virtual machine, whether or not it was written.
        """
        try:
            code = _code_of(executable)
        except (OSError, device_code.UnknownForm) as e:
            if isinstance(e, OSError):
                self._cache.warn(e)
            return executable.jit()
        parts = [code.program, code.machine, *(content for _, content in code.device)]
        payload = b"".join(parts)
        head = {
            "key": self._key,
            "sizes": list(map(len, parts)),
            "device": [kind for kind, _ in code.device],
            "sha256": hashlib.sha256(payload).hexdigest(),
        }
        self._cache.write(self._name, json.dumps(head).encode() + b"\n" + payload)
        return _module(code)

    def _code(self, content: bytes) -> _Code | None:
        """The code of an entry; None if it is damaged or for another key."""
        head, _, payload = content.partition(b"\n")
        try:
            entry = json.loads(head)
            good = (
                entry["key"] == self._key and entry["sha256"] == hashlib.sha256(payload).hexdigest()
            )
            ends = list(itertools.accumulate(map(int, entry["sizes"]), initial=0))
            program, machine, *device = (payload[a:b] for a, b in itertools.pairwise(ends))
            kinds = list(map(str, entry["device"]))
            code = _Code(program, machine, tuple(zip(kinds, device, strict=True)))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return code if good else None


class _Code(NamedTuple):
    """The code of a model: the virtual machine's program, machine code, and a GPU's by kind."""

    program: bytes
    machine: bytes
    device: tuple[tuple[str, bytes], ...] = ()


def _code_of(executable: Any) -> _Code:
    """Take the code of a compiled model.

    Raises:
        OSError: There is not enough space for LLVM to write it.
        UnknownForm: That of a GPU cannot be taken.
    """
    with _llvm:
        host = executable.mod.imports[0]
        return _Code(
            _emitted(executable.mod, "ro"), _emitted(host, "o"), tuple(device_code.dump(host))
        )


def _module(code: _Code) -> Any:
    """Load a virtual machine's program and the machine code that it calls as a module."""
    import tvm_ffi

    module = tvm_ffi.get_global_func("ffi.Module.load_from_bytes.relax.VMExecutable")(code.program)
    with _llvm:
        # Otherwise it would ask $CXX for a C++ library, which our code does not need.
        machine = _session().load_module(code.machine, cxx=os.devnull)
    for kind, content in code.device:
        device_code.load(machine, kind, content)
    module.import_module(machine)
    return module


def _emitted(module: Any, kind: str) -> bytes:
    """The content of the file that TVM writes for a module, of kind ``o`` or ``ro``.

    LLVM ends the process if it cannot write. So it writes to memory, or where there is space.

    Raises:
        OSError: There is not enough space.
    """
    with _scratch_file() as path:
        module.write_to_file(str(path), kind)
        return path.read_bytes()


@contextmanager
def _scratch_file() -> Iterator[Path]:
    """A file to which LLVM can write, as far as that can be checked."""
    _check_file_size_limit()
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("mlc_widget-code", os.MFD_CLOEXEC)
        try:
            path = Path(f"/proc/self/fd/{descriptor}")
            if path.exists():  # /proc is mounted
                yield path
                return
        finally:
            os.close(descriptor)
    with tempfile.TemporaryDirectory(prefix="mlc_widget-") as folder:
        path = Path(folder) / "code"
        with path.open("wb") as file:  # notice a full disk here, before LLVM does
            file.write(bytes(_ROOM))
            file.flush()
            os.fsync(file.fileno())
        yield path


def _check_file_size_limit() -> None:
    """Raise OSError if this process may not write files as large as a model's code."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and limit < _ROOM:
        raise OSError(
            errno.EFBIG,
            f"this process may write files of at most {limit} bytes (`ulimit -f`), and compiled "
            f"code may take {_ROOM}",
        )


@functools.cache
def _session() -> Any:
    """The JIT that maps machine code into this process.

    TVM's object files only call C functions and have no constructors, so they need none of ORC's
    own runtime. A single object also does not need the memory pools that many would share.
    """
    import tvm_ffi_orcjit

    return tvm_ffi_orcjit.ExecutionSession(orc_rt=None, slab_size=-1)
