"""Models that have a short name here and are downloaded from one of several places."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final

_FILE: Final = "catalogue.json"


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """A model that can be downloaded by its name.

    Attributes:
        family: Its architecture, as MLC's ``model_type`` names it.
        nbytes: Bytes to download.
        memory_bytes: About what it takes when it is loaded.
        licence: As SPDX names it.
        context: Tokens that it was trained for.
        sources: Model ids of the same file with its sum, in the order in which they are tried.
    """

    family: str
    nbytes: int
    memory_bytes: int
    licence: str
    context: int
    sources: tuple[str, ...]


@cache
def catalogue() -> MappingProxyType[str, CatalogueModel]:
    """The models, by name."""
    entries = json.loads(files(__package__).joinpath(_FILE).read_text("utf-8"))
    return MappingProxyType(
        {
            name: CatalogueModel(**{**entry, "sources": tuple(entry["sources"])})
            for name, entry in entries.items()
        }
    )
