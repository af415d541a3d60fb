"""CUDA source to machine code by NVRTC, kept on disk.

TVM's own way does not find the headers of NVIDIA's packages (cccl lies apart), and compiles every
time.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

_DIGEST = hashlib.sha256().digest_size


def compile_with_nvrtc(code: str, arch: str) -> bytes:
    """A cubin of TVM's CUDA source for a GPU such as ``sm_90``; headers are under ``CUDA_PATH``."""
    from tvm.support import nvcc

    cccl = Path(os.environ.get("CUDA_PATH", "/usr/local/cuda")) / "include" / "cccl"
    options = [f"-I{cccl}"] if cccl.is_dir() else []
    return bytes(nvcc.compile_cuda(code, "cubin", arch, options, compiler="nvrtc"))


def install(arch: str, folder: Path) -> None:
    """Make TVM compile CUDA source for `arch` so, and look in `folder` first.

    A file there is a SHA-256 sum and the code that it is of. One that is damaged, or that another
    user can have written, is not used.
    """
    import tvm_ffi

    def compile_cuda(code: str) -> bytes:
        made_by = (version("apache-tvm"), version("cuda-bindings"), arch)
        key = hashlib.sha256("\0".join((*made_by, code)).encode()).hexdigest()[:32]
        return _cached(folder / f"{key}.cubin", lambda: compile_with_nvrtc(code, arch))

    tvm_ffi.register_global_func("tvm_callback_cuda_compile", compile_cuda, override=True)


def _cached(file: Path, make: Callable[[], bytes]) -> bytes:
    try:
        if _ours(file.parent):
            content = file.read_bytes()
            if hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST]:
                return content[_DIGEST:]
    except OSError:
        pass
    code = make()
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, aside = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(handle, "wb") as f:
            f.write(hashlib.sha256(code).digest() + code)
        Path(aside).replace(file)
    except OSError:  # a cache that cannot be written costs time, not the model
        pass
    return code


def _ours(folder: Path) -> bool:
    info = folder.stat()
    return info.st_uid == os.getuid() and not info.st_mode & 0o022
