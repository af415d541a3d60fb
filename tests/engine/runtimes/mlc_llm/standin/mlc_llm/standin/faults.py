"""What is to go wrong, as JSON in the environment variable MLC_LLM_STANDIN."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache

VARIABLE = "MLC_LLM_STANDIN"


@dataclass(frozen=True)
class Faults:
    """Steps are counted over all requests, from the first token.

    Attributes:
        recordings: A file with recorded calls to answer from.
        devices: Devices that exist beside the CPU.
        step_s: Seconds that a decode step takes.
        load_s: Seconds that a load takes.
        load_dies: The message with which the background thread dies while it loads.
        load_hangs: Whether it hangs there instead.
        load_crashes: Whether the process crashes there.
        step_dies_after: The background thread dies after so many steps.
        step_hangs_after: It hangs after so many.
        crashes_after: The process crashes after so many.
        once: A file: a hanging load, and what is to happen to steps, happen unless it exists, and
            make it.
        compile_s: Seconds that the compiler takes.
        compile_fails: What it fails with.
        compile_hangs: Whether it never ends.
        taken_back: Tokens that are counted beside those of the text.
        no_generate: Whether `_generate` is missing, as in some other version.
        no_embeddings: Whether AsyncEmbeddingEngine is missing.
    """

    recordings: str | None = None
    devices: tuple[str, ...] = ()
    step_s: float = 0.0
    load_s: float = 0.0
    load_dies: str | None = None
    load_hangs: bool = False
    load_crashes: bool = False
    step_dies_after: int | None = None
    step_hangs_after: int | None = None
    crashes_after: int | None = None
    once: str | None = None
    compile_s: float = 0.1
    compile_fails: str | None = None
    compile_hangs: bool = False
    taken_back: int = 0
    no_generate: bool = False
    no_embeddings: bool = False

    def first_time(self) -> bool:
        if self.once is None:
            return True
        try:
            os.close(os.open(self.once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


@cache
def faults() -> Faults:
    return Faults(**json.loads(os.environ.get(VARIABLE, "{}")))
