"""Files of the user's that have the names of packages that we need.

A notebook's folder comes first on its import path, so an `openai.py` beside the notebook is found
instead of the package.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Final

from mlc_widget.api.errors import RuntimeUnavailableError

_PACKAGES: Final = (
    *("openai", "pydantic", "httpx", "httpx2"),
    *("zmq", "tornado", "jupyter_client", "jupyter_core", "traitlets"),
    *("IPython", "ipykernel", "comm", "anywidget", "ipywidgets"),
)


@cache
def check_packages() -> None:
    """Check that no file shadows a package that the notebook's side needs.

    Raises:
        RuntimeUnavailableError: One does; the message names the file.
    """
    for name in _PACKAGES:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            continue
        if spec is not None and spec.origin is not None and not spec.submodule_search_locations:
            raise RuntimeUnavailableError(
                f"mlc_widget needs the package {name}, but `import {name}` finds {spec.origin} "
                "instead. Rename that file and restart the kernel."
            )
