"""Compiles CUDA source to machine code with NVRTC, and caches it on disk.

TVM's own function does not find the headers of NVIDIA's packages (those of cccl are elsewhere), and
does not cache.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final

from mlc_widget.engine.runtimes.tvm.cuda import toolkit
from mlc_widget.engine.runtimes.tvm.machine import without_torch
from mlc_widget.engine.store.user_cache import UserCache

_DIGEST = hashlib.sha256().digest_size
_NAME: Final = "tvm_callback_cuda_compile"
"""TVM calls the function that is registered by this name."""
_installed: dict[str, Callable[[str], bytes]] = {}


def compile_with_nvrtc(code: str, arch: str) -> bytes:
    """Compile TVM's CUDA source to a cubin for a GPU such as ``sm_90``.

    Headers are looked up under ``CUDA_PATH``.
    """
    with importing_tvm():  # where kernels are first called, TVM may not be imported yet
        from tvm.support import nvcc

    arch = "sm_90a" if arch == "sm_90" else arch  # all that Hopper has, such as `wgmma`
    cccl = toolkit.cccl()
    options = [f"-I{cccl}"] if cccl is not None else []
    return bytes(nvcc.compile_cuda(code, "cubin", arch, options, compiler="nvrtc"))


def install(arch: str, root: Path | None = None) -> None:
    """Have TVM compile CUDA source for `arch` in this way, with the user's cache.

    A file of the cache is a SHA-256 and the code with that sum. It is not used if it is damaged, or
    could have been written by another user (see `UserCache`).

    Args:
        arch: NVIDIA's name of the GPU's architecture, such as ``sm_90``.
        root: The cache's folder.
    """
    import tvm_ffi

    cache = UserCache("cuda", root)

    def compile_cuda(code: str) -> bytes:
        made_by = (version("apache-tvm"), version("cuda-bindings"), arch)
        key = hashlib.sha256("\0".join((*made_by, code)).encode()).hexdigest()[:32]
        return _cached(cache, f"{key}.cubin", lambda: compile_with_nvrtc(code, arch))

    _installed[_NAME] = compile_cuda
    tvm_ffi.register_global_func(_NAME, compile_cuda, override=True)


@contextmanager
def importing_tvm() -> Iterator[None]:
    """Have this thread import TVM, without torch, and keep what `install` has registered.

    TVM registers a function of its own, and cannot be imported while there is another.
    """
    late = "tvm" not in sys.modules and _NAME in _installed
    if late:
        from tvm_ffi.registry import remove_global_func

        remove_global_func(_NAME)
    try:
        with without_torch():
            yield
    finally:
        if late:
            import tvm_ffi

            tvm_ffi.register_global_func(_NAME, _installed[_NAME], override=True)


def _cached(cache: UserCache, name: str, make: Callable[[], bytes]) -> bytes:
    content = cache.read(name)
    if content is not None and hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST]:
        return content[_DIGEST:]
    code = make()
    cache.write(name, hashlib.sha256(code).digest() + code)
    return code
