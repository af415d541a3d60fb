"""`%load_ext mlc_widget`: the public names in the notebook, `%mlc`, `%%chat` and `%%map`.

Loading is cheap: what a magic needs is imported when it is first used.
"""

from __future__ import annotations

import weakref
from typing import Any

from mlc_widget.magics.commands import MLCMagics
from mlc_widget.magics.completion import complete_chat, complete_map, complete_mlc
from mlc_widget.magics.transformers import CellTransformer

_HOOK = "complete_command"
_loaded: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()
"""The names that were added to each shell."""


def load_ipython_extension(shell: Any) -> None:
    """Add the magics, and the public names where the notebook has none of its own."""
    offered: dict[str, Any] = _loaded.setdefault(shell, {})
    magics = MLCMagics(shell, lambda: offered.update(_offer_names(shell)))
    magics.offer_names()
    shell.register_magics(magics)
    _remove_transformers(shell)
    # First, as it needs the lines as IPython has written them.
    shell.input_transformers_post.insert(0, magics.transformer)
    shell.set_hook(_HOOK, lambda _, event: complete_mlc(magics.registry, event), str_key="%mlc")
    shell.set_hook(_HOOK, lambda _, event: complete_chat(magics.registry, event), str_key="%%chat")
    shell.set_hook(_HOOK, lambda _, event: complete_map(magics.registry, event), str_key="%%map")


def unload_ipython_extension(shell: Any) -> None:
    """Remove what `load_ipython_extension` has added; engines keep running."""
    for name, value in _loaded.pop(shell, {}).items():
        if shell.user_ns.get(name) is value:
            shell.drop_by_id({name: value})
    _remove_transformers(shell)
    shell.magics_manager.magics["line"].pop("mlc", None)
    for name in ("chat", "map"):
        shell.magics_manager.magics["cell"].pop(name, None)
    shell.magics_manager.registry.pop(MLCMagics.__name__, None)
    for key in ("%mlc", "%%chat", "%%map"):
        shell.strdispatchers[_HOOK].strs.pop(key, None)


def _remove_transformers(shell: Any) -> None:
    transformers = shell.input_transformers_post
    transformers[:] = [one for one in transformers if not isinstance(one, CellTransformer)]


def _offer_names(shell: Any) -> dict[str, Any]:
    """Put the public names where the notebook has none of its own; returns those that were put."""
    from mlc_widget.factories import (
        create_kernel_mlc_engine,
        create_mlc_engine,
        kernel_mlc_engine,
        mlc_engine,
    )
    from mlc_widget.proxy.engines import AsyncKernelMLCEngine, KernelMLCEngine
    from mlc_widget.widget import ChatWidget, CompareWidget

    names = (
        AsyncKernelMLCEngine,
        ChatWidget,
        CompareWidget,
        KernelMLCEngine,
        create_kernel_mlc_engine,
        create_mlc_engine,
        kernel_mlc_engine,
        mlc_engine,
    )
    fresh = {n.__name__: n for n in names if n.__name__ not in shell.user_ns}
    shell.push(fresh, interactive=False)
    return fresh
