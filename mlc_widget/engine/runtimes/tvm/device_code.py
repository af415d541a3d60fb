"""Code for GPUs as bytes: the modules that a model's machine code imports.

TVM offers their bytes only as part of what it would link into a shared library (see
``src/target/codegen_blob``): 8 bytes with the size of all, two lists that say which module imports
which, and each module as its kind and, but for machine code (``_lib``), its content.
"""

from __future__ import annotations

from typing import Any, Final

_HOST: Final = "_lib"


class UnknownForm(Exception):
    """The modules are not what `dump` can take apart."""


def dump(module: Any) -> list[tuple[str, bytes]]:
    """The kind and content of each module that machine code imports.

    Raises:
        UnknownForm: TVM's form has changed, or a module imports others in turn.
    """
    if not list(module.imports):
        return []
    import tvm_ffi

    pack = tvm_ffi.get_global_func("runtime.ModulePackImportsToTensor")
    found = _parse(pack(module).numpy().tobytes())
    if [kind for kind, _ in found] != [str(other.kind) for other in module.imports]:
        raise UnknownForm
    return found


def load(module: Any, kind: str, content: bytes) -> None:
    """Have machine code import a module again."""
    import tvm_ffi

    module.import_module(tvm_ffi.get_global_func(f"ffi.Module.load_from_bytes.{kind}")(content))


def _parse(blob: bytes) -> list[tuple[str, bytes]]:
    at = 0

    def number() -> int:
        nonlocal at
        at += 8
        if at > len(blob):
            raise UnknownForm
        return int.from_bytes(blob[at - 8 : at], "little")

    def text() -> bytes:
        nonlocal at
        size = number()
        at += size
        if at > len(blob):
            raise UnknownForm
        return blob[at - size : at]

    if number() != len(blob) - 8:
        raise UnknownForm
    for _ in range(2):
        count = number()
        at += 8 * count
    if text() != _HOST.encode():
        raise UnknownForm
    found = []
    while at < len(blob):
        found.append((text().decode("ascii", "replace"), text()))
    return found
