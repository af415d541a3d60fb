"""As much of TVM as the stand-in for mlc_llm and its users touch."""

from __future__ import annotations

from . import error
from .runtime import Device, cpu, device

__all__ = ["Device", "cpu", "device", "error"]
