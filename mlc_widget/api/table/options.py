"""The arguments of `map` and `map_stream`, defined once, with their defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from mlc_widget.api.request_params import SamplingParams

if TYPE_CHECKING:
    from mlc_widget.api.function_tools import Tools
    from mlc_widget.api.table.report import MapReport


class MapParams(SamplingParams, total=False):
    """Fields of a chat request that a map passes on with each row."""

    enable_thinking: bool | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None


class MapOptions(MapParams, total=False):
    """The arguments of `AsyncMLCEngineInterface.map` behind ``prompt`` and ``data``."""

    schema: Any
    system: str | None
    tools: Tools | None
    into: str | None
    probabilities: bool
    seed: int
    cache: bool | str | os.PathLike[str]
    on_error: Literal["keep", "raise"]
    limit: int | None
    show_progress: bool
    report: MapReport | None


MAP_DEFAULTS: Final[MapOptions] = {
    "schema": None,
    "system": None,
    "tools": None,
    "into": None,
    "probabilities": False,
    "seed": 0,
    "cache": True,
    "on_error": "keep",
    "limit": None,
    "show_progress": True,
    "report": None,
}
"""What the signatures of `map` and `map_stream` name; the fields of `MapParams` have no defaults
here, as those of the model apply."""
