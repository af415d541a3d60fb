"""`%load_ext mlc_widget`: the public names, in the notebook."""

from __future__ import annotations

from typing import Any

_NAMES = (
    "AsyncKernelMLCEngine",
    "ChatWidget",
    "KernelMLCEngine",
    "create_kernel_mlc_engine",
    "create_mlc_engine",
)


def load_ipython_extension(shell: Any) -> None:
    """Put the public names into the notebook, unless it has its own of that name."""
    import mlc_widget

    fresh = {n: getattr(mlc_widget, n) for n in _NAMES if n not in shell.user_ns}
    shell.push(fresh, interactive=False)
