"""Schemas that know where they stand."""

from __future__ import annotations

from typing import Any


class LocatedSchema(dict[str, Any]):
    """A checked schema that knows its path in the request."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at
