from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class DebugConfig(BaseModel):
    ignore_eos: bool = False
    special_request: Literal["query_engine_metrics"] | None = None
    grammar_execution_mode: Literal["constraint", "jump_forward"] = "jump_forward"
