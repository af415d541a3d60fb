"""Detects this machine's CPU: the features for the compiler, and those for our kernels."""

from __future__ import annotations

import platform
from collections.abc import Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.runtimes.tvm.kernels.isa import Isa

# LLVM's features that our kernels use, with their names in Linux's /proc/cpuinfo.
_X86_FLAGS = {
    "fma": "fma",
    "avx2": "avx2",
    "f16c": "f16c",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512vl": "avx512vl",
    "avx512dq": "avx512dq",
    "avx512cd": "avx512cd",
    "avx512vnni": "avx512_vnni",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512ifma": "avx512ifma",
    "avx512vp2intersect": "avx512_vp2intersect",
    "avxvnni": "avx_vnni",
    "amx-tile": "amx_tile",
}


@dataclass(frozen=True, slots=True)
class CpuTarget:
    """A CPU for which code is compiled.

    Attributes:
        triple: LLVM's target triple.
        cpu: LLVM's name of the CPU.
        missing: Features that the CPU's name implies but that are missing, as in some virtual
            machines.
        isa: The features for our kernels.
        extra: Features that the CPU's name does not imply.
    """

    triple: str
    cpu: str
    missing: tuple[str, ...]
    isa: Isa
    extra: tuple[str, ...] = ()

    def tvm_target(self) -> Any:
        """The `tvm.target.Target`."""
        return _tvm_target(self.triple, self.cpu, self.missing, self.extra)


# LLVM's names of CPUs that have exactly these kinds' features, and additional features.
_KINDS = {
    "portable": ("x86-64", ()),
    "avx2": ("x86-64-v3", ()),
    "avxvnni": ("x86-64-v3", ("avxvnni",)),
    "avx512": ("x86-64-v4", ()),
    "avx512vnni": ("x86-64-v4", ("avx512vnni",)),
}


def host_target(kind: str | None = None) -> CpuTarget:
    """The target of this machine's CPU, or of a kind (`options.CPUS`) that it supports.

    Raises:
        BadRequestError: It does not support that kind.
    """
    host = _host_target()
    if kind is None:
        return host
    cpu, extra = _KINDS[kind]
    x86 = host.triple.startswith("x86_64")
    has = _features(host.triple, host.cpu, host.missing) if x86 else frozenset()
    needs = _features(host.triple, cpu, (), extra) if x86 else frozenset({"x86-64"})
    # These features say how LLVM should schedule, not which instructions it may use.
    absent = {f for f in needs - has if f in _X86_FLAGS}
    if absent or not x86:
        raise BadRequestError(
            f"cpu is {kind!r}, but this machine's CPU has no "
            f"{', '.join(sorted(absent)) or 'x86-64'}. Leave the option out.",
            param="cpu",
        )
    return CpuTarget(host.triple, cpu, (), isa_of(needs, host.triple), extra)


def _host_target() -> CpuTarget:
    from tvm.target import codegen

    triple, cpu = str(codegen.llvm_get_system_triple()), str(codegen.llvm_get_system_cpu())
    features = _features(triple, cpu)
    flags = _cpuinfo_flags()
    missing: tuple[str, ...] = ()
    if flags is not None:
        missing = tuple(f for f, flag in _X86_FLAGS.items() if f in features and flag not in flags)
        features -= set(missing)
    return CpuTarget(triple, cpu, missing, isa_of(features, triple))


def isa_of(features: Set[str], triple: str) -> Isa:
    """The features for our kernels, from LLVM's feature names."""
    dot = next((d for d in ("avx512vnni", "avxvnni", "avx2") if d in features), "")
    if "avx512f" in features:
        return Isa(fma=True, matmul_rows=8, registers=32, dot=dot, int8_rows=8)
    if triple.startswith(("aarch64", "arm64")):
        return Isa(fma=True, matmul_rows=4, registers=8)
    return Isa(
        fma="fma" in features,
        matmul_rows=4,
        registers=8,
        f16c="f16c" in features,
        dot=dot if "fma" in features else "",
        int8_rows=4,
    )


def _tvm_target(
    triple: str, cpu: str, missing: tuple[str, ...], extra: tuple[str, ...] = ()
) -> Any:
    import tvm

    config: dict[str, Any] = {"kind": "llvm", "mtriple": triple, "mcpu": cpu}
    if missing or extra:
        config["mattr"] = [f"-{f}" for f in missing] + [f"+{f}" for f in extra]
    return tvm.target.Target(config)


@cache
def _features(
    triple: str, cpu: str, missing: tuple[str, ...] = (), extra: tuple[str, ...] = ()
) -> frozenset[str]:
    from tvm.target import codegen

    target = _tvm_target(triple, cpu, missing, extra)
    return frozenset(str(f) for f in codegen.llvm_get_cpu_features(target))


def _cpuinfo_flags() -> set[str] | None:
    """The flags of an x86 CPU on Linux; otherwise None."""
    if platform.machine() not in {"x86_64", "AMD64"}:
        return None
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return set(value.split())
    return None
