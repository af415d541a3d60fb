"""A stand-in for mlc_llm: no model, and as far as it goes the same behaviour, traps included.

It answers what ../../recordings.json has as it was recorded, if it is told where that is
(`standin.faults`), and anything else with sentences.
"""

from __future__ import annotations

from . import protocol, serve
from .serve import AsyncMLCEngine

__version__ = "0.0.standin"
__all__ = ["AsyncMLCEngine", "__version__", "protocol", "serve"]
