"""Finds or compiles a model's library, in a process of its own: it can be watched and ended.

``python -m mlc_widget.engine.runtimes.mlc_llm.compilation_child JSON`` with ``{"model", "device",
"overrides"}`` prints mlc_llm's log and, last, the library's path. It ends, compiler and all, when
its standard input does, so that it does not outlive whoever started it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, Final

from mlc_widget.engine.system.child_process import end_with_parent

RESULT: Final = "mlc_widget-library:"


def main() -> None:
    """Run mlc_llm's just-in-time compiler, whose cache and whose policies hold."""
    wanted: dict[str, Any] = json.loads(sys.argv[1])
    end_with_parent()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    import tvm
    from mlc_llm.interface import jit

    kind, _, index = wanted["device"].partition(":")
    made = jit.jit(
        model_path=Path(wanted["model"]),
        overrides=wanted["overrides"],
        device=tvm.device(kind, int(index or 0)),
    )
    path = getattr(made, "model_lib_path", made)  # earlier versions gave the path itself
    print(RESULT + json.dumps(str(path)), flush=True)
    os._exit(0)  # not through the packages' clean-up, which may wait


if __name__ == "__main__":
    main()
