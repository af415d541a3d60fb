"""A logit processor that holds the worker's model at a token, imported by the worker.

``RECOVERY_GATE`` names a folder. The file ``at`` in it says after how many tokens of a generation
the model is held, until ``at`` says more or there is a file ``open``; ``held`` says that it is. A
file ``die`` ends the engine's thread, once.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


class Gate:
    def __init__(self) -> None:
        self.folder = Path(os.environ["RECOVERY_GATE"])
        self.tokens = 0

    def process_logits(self, logits: Any) -> Any:
        if self._reached():
            while self._reached() and not (self.folder / "open").exists():
                (self.folder / "held").touch()
                time.sleep(0.002)
            if (self.folder / "die").exists():
                (self.folder / "die").unlink()
                _end_the_next_step()
        return logits

    def _reached(self) -> bool:
        return self.tokens >= int((self.folder / "at").read_text())

    def process_sampled_token(self, token_id: int) -> None:
        self.tokens += 1


def _end_the_next_step() -> None:
    """Have the engine's thread end: what a processor raises ends its own request only."""
    from mlc_widget.engine.runtimes.tvm.scheduler import Scheduler

    step = Scheduler._step

    def fall(self: Any, *args: Any) -> None:
        Scheduler._step = step  # type: ignore[method-assign]
        raise SystemExit("the gate fell")

    Scheduler._step = fall  # type: ignore[method-assign,assignment]
