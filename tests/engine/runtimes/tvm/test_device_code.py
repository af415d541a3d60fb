"""A GPU's code as bytes, taken from what TVM has compiled, without a GPU."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest

from mlc_widget.engine.runtimes.tvm import device_code
from mlc_widget.engine.runtimes.tvm.device_code import UnknownForm, dump


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def blob(*modules: tuple[bytes, bytes]) -> bytes:
    """What TVM packs for machine code that imports these modules."""
    count = len(modules)
    indptr = [0, count, *[count] * count]
    lists = [struct.pack(f"<{len(v) + 1}Q", len(v), *v) for v in (indptr, range(1, count + 1))]
    body = b"".join([*lists, text(b"_lib"), *(text(k) + text(c) for k, c in modules)])
    return struct.pack("<Q", len(body)) + body


@pytest.mark.parametrize(
    "modules",
    [[(b"cuda", b"cubin")], [(b"cuda", b"")], [(b"cuda", bytes(1000)), (b"const_loader", b"_lib")]],
)
def test_modules_are_taken_apart(modules):
    assert device_code._parse(blob(*modules)) == [(kind.decode(), code) for kind, code in modules]


def damaged():
    good = blob((b"cuda", b"machine code"))
    for size in range(0, len(good), 9):
        yield good[:size]
        yield struct.pack("<Q", max(0, size - 8)) + good[8:size]  # which states that size
    yield good + b"x"
    yield good.replace(b"_lib", b"_lob")
    for at in (8, 40, 56):  # the lengths of both lists, and of the first kind
        yield good[:at] + b"\xff" * 8 + good[at + 8 :]


@pytest.mark.parametrize("content", list(damaged()))
def test_other_forms_are_told(content):
    with pytest.raises(UnknownForm):
        device_code._parse(content)


def test_code_for_a_cpu_imports_nothing():
    assert dump(SimpleNamespace(imports=[])) == []


def test_tvm_packs_in_this_form():
    import tvm
    import tvm_ffi

    from mlc_widget.engine.runtimes.tvm.cuda.features import make_scale
    from mlc_widget.engine.runtimes.tvm.cuda.target import CudaTarget

    name = "tvm_callback_cuda_compile"
    before = tvm_ffi.get_global_func(name, allow_missing=True)
    tvm_ffi.register_global_func(name, lambda code: b"machine code", override=True)
    try:
        kernel = make_scale(64, 2.0, added=False, overlapped=False)
        module = tvm.IRModule({"scale": kernel.with_attr("global_symbol", "scale")})
        target = CudaTarget("sm_90", "x86_64-unknown-linux-gnu", "x86-64").tvm_target()
        ((kind, content),) = dump(tvm.compile(module, target).mod)
    finally:
        if before is None:
            tvm_ffi.registry.remove_global_func(name)
        else:
            tvm_ffi.register_global_func(name, before, override=True)
    assert kind == "cuda"
    assert b"scale_kernel" in content
