from __future__ import annotations

from dataclasses import dataclass

KINDS = ("cpu", "cuda", "rocm", "metal", "vulkan", "opencl")


@dataclass(frozen=True)
class Device:
    kind: str
    index: int

    @property
    def exist(self) -> bool:
        from mlc_llm.standin.faults import faults

        return self.kind == "cpu" or f"{self.kind}:{self.index}" in faults().devices


def device(device_type: str, index: int | None = None) -> Device:
    kind, _, number = device_type.partition(":")
    if kind not in KINDS:
        raise ValueError(f"Unknown device type {device_type}")
    return Device(kind, int(number or index or 0))


def cpu(index: int = 0) -> Device:
    return Device("cpu", index)
