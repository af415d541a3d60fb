"""The models on this disk: downloaded from the Hub, out of Python packages, or by other programs.

Only names, sizes and times are read here, so that listing is quick and needs no engine.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from mlc_widget.models import CONFIG_FILE, builtin_models
from mlc_widget.models.catalogue import catalogue, plain_id
from mlc_widget.models.other_programs import foreign_models
from mlc_widget.models.places import (
    hub_cache_root,
    total_memory,
    user_cache_root,
    weight_budget,
)

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_PART: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.I)
_MOST_FILES: Final = 10_000
_LARGEST_INDEX: Final = 1 << 24
_REMEMBERED_S: Final = 5.0

Kind = Literal["hub", "wheel", "converted", "other"]


@dataclass(frozen=True, slots=True)
class InventoryEntry:
    """A model on this disk.

    Attributes:
        name: The id that loads it.
        kind: Where it is from.
        folder: What the cache has of its repository or package.
        files: Its files. Those of the Hub are links into the cache's ``blobs``.
        nbytes: Their size.
        last_used: When one of them was last read, in seconds since 1970, as far as the file system
            records that.
        whole: Whether it is all there. What is not is continued by the next download.
        program: The other program that it belongs to; "" if it is in our caches or the Hub's.
        remedy: How that program's models are removed.
        licence: What its package says of its licence.
    """

    name: str
    kind: Kind
    folder: Path
    files: tuple[Path, ...]
    nbytes: int
    last_used: float
    whole: bool = True
    program: str = ""
    remedy: str = ""
    licence: str = ""


def inventory() -> list[InventoryEntry]:
    """All downloaded models, by name."""
    found = [*_of_hub(hub_cache_root())]
    with contextlib.suppress(OSError):
        found += _of_wheels(user_cache_root() / "wheels")
    with contextlib.suppress(OSError):
        found += _of_conversions(user_cache_root() / "converted")
    for model in foreign_models():
        folder, files = model.files[0].parent, list(model.files)
        with contextlib.suppress(OSError):
            entry = _entry(model.name, "other", folder, files, True)
            found.append(replace(entry, program=model.program, remedy=model.remedy))
    return sorted(found, key=lambda entry: (entry.name, not entry.whole))


def matching(name: str) -> list[InventoryEntry]:
    """The entries that a model's name stands for; a name of the catalogue has several sources."""
    listed = catalogue().get(name)
    wanted = {plain_id(source) for source in (listed.sources if listed else [name])}
    return [entry for entry in inventory() if plain_id(entry.name) in wanted]


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model to offer.

    Attributes:
        name: What loads it.
        place: Where it is: ``built in``, ``here`` (on this disk), the name of another program that
            has it here, ``download``, or ``loaded``, for those of an engine that has several.
        nbytes: The size of its files, or of the download; None if unknown.
        memory_bytes: About what it takes when it is loaded; None if unknown.
        licence: As SPDX names it; "" if unknown.
        fits: Whether this machine has the memory for it; None if unknown.
    """

    name: str
    place: str
    nbytes: int | None = None
    memory_bytes: int | None = None
    licence: str = ""
    fits: bool | None = None


_choices: tuple[float, list[ModelChoice]] | None = None


def choices() -> list[ModelChoice]:
    """What to offer: built-in models, what is on this disk, and the rest of the catalogue."""
    global _choices
    now = time.monotonic()
    if _choices is None or now - _choices[0] > _REMEMBERED_S:
        by_id = {plain_id(s): name for name, m in catalogue().items() for s in m.sources}
        found = {name: ModelChoice(name, "built in") for name in builtin_models()}
        for entry in inventory():
            name = by_id.get(plain_id(entry.name), entry.name)
            if entry.whole and entry.kind != "converted" and name not in found:
                place = entry.program or "here"
                found[name] = _choice(name, place, entry.nbytes, entry.licence)
        for name, model in catalogue().items():
            if name not in found:
                found[name] = _choice(name, "download", model.nbytes)
        _choices = now, list(found.values())
    return list(_choices[1])


def _choice(name: str, place: str, nbytes: int, licence: str = "") -> ModelChoice:
    listed = catalogue().get(name)
    needs = listed.memory_bytes if listed else nbytes
    total = total_memory()
    budget = weight_budget() if listed is None else total
    return ModelChoice(
        name,
        place,
        nbytes,
        listed.memory_bytes if listed else None,
        listed.licence if listed else licence,
        None if budget is None else needs <= budget,
    )


def model_choices() -> list[str]:
    """The names of `choices`."""
    return [choice.name for choice in choices()]


def _of_hub(root: Path) -> Iterator[InventoryEntry]:
    try:
        folders = sorted(root.iterdir())
    except OSError:
        return
    for folder in folders:
        parts = folder.name.split("--")
        if len(parts) < 3 or parts[0] != "models":
            continue
        repo = f"{parts[1]}/{'--'.join(parts[2:])}"
        yield from _of_repository(folder, repo)


def _of_repository(folder: Path, repo: str) -> Iterator[InventoryEntry]:
    seen: set[str] = set()
    for snapshot in _snapshots(folder):
        files = _files_below(snapshot)
        groups: dict[str, list[Path]] = {}
        weights = any(path.name.endswith(".safetensors") for path in files)
        if (snapshot / CONFIG_FILE).is_file() or (weights and (snapshot / "config.json").is_file()):
            groups[f"HF://{repo}"] = files
        for path in files:
            if path.name.lower().endswith(".gguf"):
                name = path.relative_to(snapshot).as_posix()
                if part := _PART.fullmatch(name):
                    name = f"{part['stem']}-00001-of-{part['count']}.gguf"
                groups.setdefault(f"HF://{repo}/{name}", []).append(path)
        for name, members in groups.items():
            if name not in seen:
                seen.add(name)
                part = _PART.fullmatch(name)
                whole = part is None or len(members) == int(part["count"])
                yield _entry(name, "hub", folder, members, whole)
    partial = [path for path in _files_below(folder / "blobs") if path.suffix == ".incomplete"]
    if partial:
        yield _entry(f"HF://{repo}", "hub", folder, partial, False)


def _snapshots(folder: Path) -> list[Path]:
    """The states of a repository, that of the default branch first."""
    current = ""
    with contextlib.suppress(OSError, ValueError):
        current = (folder / "refs" / "main").read_text("ascii").strip()
    found: list[Path] = []
    with contextlib.suppress(OSError):
        found = [p for p in (folder / "snapshots").iterdir() if _COMMIT.fullmatch(p.name)]
    return sorted(found, key=lambda p: (p.name != current, p.name))


def _files_below(folder: Path) -> list[Path]:
    """The files of a folder, without links to nothing."""
    found: list[Path] = []
    for at, _, names in os.walk(folder):
        found += [path for name in sorted(names) if (path := Path(at, name)).is_file()]
        if len(found) > _MOST_FILES:
            break
    return found


def _of_wheels(root: Path) -> Iterator[InventoryEntry]:
    for folder in sorted(root.iterdir()):
        index = wheel_index(folder)
        for key, value in index.items():
            version, _, member = key.partition("/")
            if not version or not member:
                continue
            with contextlib.suppress(LookupError, TypeError, AttributeError, OSError):
                inner = [f"{value['folder']}/{name}" for name in value["files"]]
                if inner and all(_is_below(name) for name in inner):
                    model_id = f"PYPI://{folder.name}=={version}/{member}"
                    entry = _entry(model_id, "wheel", folder, [folder / n for n in inner], True)
                    licence = value.get("licence")
                    yield replace(entry, licence=licence if isinstance(licence, str) else "")
        for path in sorted(folder.glob(".partial/*.whl")):  # of a download that was ended
            version = path.name.split("-")[1] if path.name.count("-") > 1 else "?"
            with contextlib.suppress(OSError):
                yield _entry(f"PYPI://{folder.name}=={version}", "wheel", folder, [path], False)


def _of_conversions(root: Path) -> Iterator[InventoryEntry]:
    """Models that were converted from safetensors as they were loaded, by their folders' paths."""
    for folder in sorted(root.iterdir()):
        if not folder.name.startswith(".") and (folder / CONFIG_FILE).is_file():
            with contextlib.suppress(OSError):
                yield _entry(str(folder), "converted", folder, _files_below(folder), True)


def _is_below(name: str) -> bool:
    return not set(name.split("/")) & {"", ".", ".."} and "\\" not in name


def wheel_index(folder: Path) -> dict[str, Any]:
    """What is kept of a package; empty where that cannot be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        path = folder / "index.json"
        if path.stat().st_size <= _LARGEST_INDEX:
            index = json.loads(path.read_bytes())
            return index if isinstance(index, dict) else {}
    return {}


def _entry(name: str, kind: Kind, folder: Path, files: list[Path], whole: bool) -> InventoryEntry:
    infos = [path.stat() for path in files]
    return InventoryEntry(
        name,
        kind,
        folder,
        tuple(files),
        sum(info.st_size for info in infos),
        max((max(info.st_atime, info.st_mtime) for info in infos), default=0.0),
        whole,
    )
