from __future__ import annotations


class InternalError(RuntimeError):
    pass


InternalError.__module__ = "tvm.error"
