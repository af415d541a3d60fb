"""CUDA source to machine code by NVRTC, kept on disk.

TVM's own way does not find the headers of NVIDIA's packages (cccl lies apart), and compiles every
time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from mlc_widget.engine.store.user_cache import UserCache

_DIGEST = hashlib.sha256().digest_size


def compile_with_nvrtc(code: str, arch: str) -> bytes:
    """A cubin of TVM's CUDA source for a GPU such as ``sm_90``; headers are under ``CUDA_PATH``."""
    from tvm.support import nvcc

    cccl = Path(os.environ.get("CUDA_PATH", "/usr/local/cuda")) / "include" / "cccl"
    options = [f"-I{cccl}"] if cccl.is_dir() else []
    return bytes(nvcc.compile_cuda(code, "cubin", arch, options, compiler="nvrtc"))


def install(arch: str, root: Path | None = None) -> None:
    """Make TVM compile CUDA source for `arch` so, and look in the user's cache first.

    A file there is a SHA-256 sum and the code that it is of. One that is damaged, or that another
    user can have written (see `UserCache`), is not used.

    Args:
        arch: NVIDIA's name of the GPU's kind, such as ``sm_90``.
        root: The cache's folder.
    """
    import tvm_ffi

    cache = UserCache("cuda", root)

    def compile_cuda(code: str) -> bytes:
        made_by = (version("apache-tvm"), version("cuda-bindings"), arch)
        key = hashlib.sha256("\0".join((*made_by, code)).encode()).hexdigest()[:32]
        return _cached(cache, f"{key}.cubin", lambda: compile_with_nvrtc(code, arch))

    tvm_ffi.register_global_func("tvm_callback_cuda_compile", compile_cuda, override=True)


def _cached(cache: UserCache, name: str, make: Callable[[], bytes]) -> bytes:
    content = cache.read(name)
    if content is not None and hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST]:
        return content[_DIGEST:]
    code = make()
    cache.write(name, hashlib.sha256(code).digest() + code)
    return code
