"""Models that have a short name here and are downloaded from one of several places."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from mlc_widget.api.chat_opts import CHAT_OPTS
from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.sampling_defaults import SAMPLING_DEFAULTS
from mlc_widget.models import builtin_models

logger = logging.getLogger(__name__)

ENTRY_POINTS: Final = "mlc_widget.models"
_FILE: Final = "catalogue.json"
_MOST_PACKAGES: Final = 64
_MOST_MODELS: Final = 1000
_MOST_SOURCES: Final = 8
_LARGEST: Final = 1 << 20
_LARGEST_NUMBER: Final = 1 << 50
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SOURCE: Final = re.compile(r"(?:HF|PYPI)://[!-~ ]{3,400}#sha256=[0-9a-fA-F]{64}")
_REQUIRED: Final = {"family", "nbytes", "memory_bytes", "licence", "context", "sources"}
_OPTIONAL: Final = {"sampling"}


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
        sampling: Values of sampling fields that its makers recommend, for requests that give none.
    """

    family: str
    nbytes: int
    memory_bytes: int
    licence: str
    context: int
    sources: tuple[str, ...]
    sampling: Mapping[str, Any] = field(default_factory=dict)


@cache
def catalogue() -> MappingProxyType[str, CatalogueModel]:
    """The models, by name: our own, and those that other packages add.

    A package adds some by an entry point of the group ``mlc_widget.models`` whose value names a
    package with a ``catalogue.json`` in the format of ours. None of its code runs. An entry that
    makes no sense is left out with a warning, and no name of ours can be taken.
    """
    own = files("mlc_widget.models").joinpath(_FILE).read_text("utf-8")
    found = {name: _entry(name, entry) for name, entry in json.loads(own).items()}
    for point in islice(entry_points(group=ENTRY_POINTS), _MOST_PACKAGES):
        try:
            for name, entry in _of_package(point.value):
                try:
                    model = _entry(name, entry)
                except ValueError as error:
                    _warn(point.value, f"{str(name)[:80]!r}: {error}")
                    continue
                if name in found or name in builtin_models():
                    _warn(point.value, f"{name!r} is the name of another model")
                else:
                    found[name] = model
        except Exception as error:  # another package's file may be anything
            _warn(point.value, str(error)[:200])
    return MappingProxyType(found)


def plain_id(model_id: str) -> str:
    """A model's id without ``HF://``, revision and checksum."""
    return re.sub(r"@[^@/]+(?:/[^@]*)?$", "", model_id.partition("#")[0]).removeprefix("HF://")


def recommended_sampling(model_id: str) -> Mapping[str, Any]:
    """Values of sampling fields that the catalogue has for a model; empty if there are none.

    Args:
        model_id: The model's name in the catalogue, or the id of the file in one of its sources.
    """
    if (named := catalogue().get(model_id)) is not None:
        return named.sampling
    wanted = plain_id(model_id)
    models = catalogue().values()
    return next((m.sampling for m in models if wanted in map(plain_id, m.sources)), {})


def _of_package(value: str) -> Iterator[tuple[str, Any]]:
    top, *below = value.split(".")
    if not all(part.isidentifier() for part in (top, *below)):
        raise ValueError("the entry point's value is not the name of a package")
    spec = find_spec(top)  # a top-level name, so that no package is imported
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    path = next((p for place in places if (p := Path(place, *below, _FILE)).is_file()), None)
    if path is None:
        raise ValueError(f"it has no {_FILE}")
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"its {_FILE} has more than {_LARGEST} bytes")
    try:
        entries = json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError(f"its {_FILE} is nested too deep") from None
    if not isinstance(entries, dict):
        raise ValueError(f"its {_FILE} is not an object")
    return islice(entries.items(), _MOST_MODELS)


def _entry(name: str, entry: Any) -> CatalogueModel:
    if not _NAME.fullmatch(name):
        raise ValueError("a name has lower-case letters, digits, '.', '_' and '-'")
    if not isinstance(entry, dict) or entry.keys() - _OPTIONAL != _REQUIRED:
        raise ValueError(
            f"it must have {', '.join(sorted(_REQUIRED))}, may have {', '.join(_OPTIONAL)}, "
            "and nothing else"
        )
    for key in ("nbytes", "memory_bytes", "context"):
        value = entry[key]
        if type(value) is not int or not 0 < value < _LARGEST_NUMBER:
            raise ValueError(f"{key} = {value!r:.40} is not a valid number")
    for key in ("family", "licence"):
        value = entry[key]
        if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= 64:
            raise ValueError(f"{key} is not a short text")
    sources = entry["sources"]
    if not isinstance(sources, list) or not 0 < len(sources) <= _MOST_SOURCES:
        raise ValueError(f"sources is not a list of 1 to {_MOST_SOURCES}")
    for source in sources:
        if not isinstance(source, str) or not _SOURCE.fullmatch(source):
            raise ValueError("a source is HF://… or PYPI://… with #sha256=… at its end")
    if len({source.rpartition("=")[2].lower() for source in sources}) > 1:
        raise ValueError("its sources have different checksums")
    sampling = _sampling(entry.get("sampling", {}))
    return CatalogueModel(**{**entry, "sources": tuple(sources), "sampling": sampling})


def _sampling(fields: Any) -> Mapping[str, Any]:
    if not isinstance(fields, dict) or not fields.keys() <= SAMPLING_DEFAULTS.keys():
        raise ValueError(f"sampling may have {', '.join(SAMPLING_DEFAULTS)}, and nothing else")
    for name, value in fields.items():
        try:
            CHAT_OPTS[name](f"sampling.{name}", value)
        except BadRequestError as error:
            raise ValueError(error.message) from None
    return MappingProxyType(fields)


def _warn(package: str, text: str) -> None:
    logger.warning("The models of the package %.80s: %s.", package, text)
