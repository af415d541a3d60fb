"""Finds or compiles a model's library in a child process, which can be watched and killed.

``python -m mlc_widget.engine.runtimes.mlc_llm.compilation_child JSON`` with ``{"model", "device",
"overrides"}`` prints mlc_llm's log and finally sends the ``library``'s path. It ends together with
the compiler when its standard input is closed, so it does not outlive the process that started it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from mlc_widget.engine.system.child_process import end_with_parent, send_facts


def main() -> None:
    """Run mlc_llm's just-in-time compiler, with its cache and its policy (MLC_JIT_POLICY)."""
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
    path = getattr(made, "model_lib_path", made)  # earlier versions returned the path itself
    send_facts(library=str(path))
    os._exit(0)  # skip the packages' clean-up at exit, which may hang


if __name__ == "__main__":
    main()
