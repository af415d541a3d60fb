"""Names of GGUF files: the parts of split files, and the choice of a quantization."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_SPLIT: Final = re.compile(
    r"(?P<stem>.+-)(?P<number>\d{5})(?P<rest>-of-(?P<count>\d{5})\.gguf)", re.I | re.S
)
_MOST: Final = 1000
_PREFERRED: Final = (
    *("Q4_K_M", "Q4_K_S", "Q4_0", "Q4_1", "IQ4_NL", "IQ4_XS", "Q5_K_M", "Q5_K_S", "Q8_0", "Q6_K"),
    *("Q3_K_M", "Q3_K_L", "Q3_K_S", "Q2_K", "F16", "BF16", "F32"),
)
"""By descending popularity: small quantizations with little loss come first."""
_NO_MODEL: Final = re.compile(r"(?:^|[/._-])(?:mmproj|imatrix)(?:[._-]|$)", re.I)
_QUANTIZATION: Final = re.compile(
    r"(?<![A-Za-z0-9])((?:I?Q\d|TQ\d)(?:_[A-Z0-9]+)*|MXFP4(?:_MOE)?|BF16|F(?:P)?16|F(?:P)?32)"
    r"(?![A-Za-z0-9_])",
    re.I,
)


def parts_of(name: str) -> list[str]:
    """The names of all parts of a split file in order; of another file, only its own."""
    split = _SPLIT.fullmatch(name)
    if split is None:
        return [name]
    count = min(int(split["count"]), _MOST)
    return [f"{split['stem']}{n:05}{split['rest']}" for n in range(1, count + 1)]


def whole_files(sizes: Mapping[str, int]) -> dict[str, int]:
    """Find the models among the files of a repository.

    Args:
        sizes: The files' sizes in bytes by name; only GGUF files count.

    Returns:
        The sizes in bytes by name; a split file counts as one, with the name of its first part.
    """
    whole: dict[str, int] = {}
    for name in sorted(sizes):
        if name.lower().endswith(".gguf") and not _NO_MODEL.search(name):
            first = parts_of(name)[0] if name in parts_of(name) else name
            whole[first] = whole.get(first, 0) + sizes[name]
    return whole


def quantization_of(name: str) -> str | None:
    """The quantization in a file's name, such as ``Q4_K_M``; None if there is none."""
    for part in reversed(name.split("/")):  # it may be the name of a folder
        if found := _QUANTIZATION.findall(part):
            return str(found[-1]).upper()
    return None


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice of a file.

    Attributes:
        name: The chosen file; None if none could be chosen.
        why: The reason for that: there is ``"none"`` of the quantization, there are ``"several"``
            models, or even the smallest file does not fit into ``"memory"``.
    """

    name: str | None
    why: str = ""


def choose(
    files: Mapping[str, int], *, quantization: str | None = None, memory: int | None = None
) -> Choice:
    """Choose a file of a repository if the user named only the repository.

    The choice is the first of Q4_K_M, Q4_K_S, Q4_0 and so on that fits into memory, or else the
    largest file that fits. There is none if the files belong to different models.

    Args:
        files: The sizes in bytes by name, from `whole_files`.
        quantization: The quantization that the user wants, if any.
        memory: The maximum size in bytes; None for no limit.
    """
    if quantization is not None:
        of_it = {n: b for n, b in files.items() if quantization_of(n) == quantization.upper()}
        if not of_it:
            return Choice(None, "none")
        return Choice(None, "several") if _are_several(of_it) else Choice(min(of_it, key=len))
    if not files:
        return Choice(None, "none")
    if _are_several(files):
        return Choice(None, "several")
    fitting = {n: b for n, b in files.items() if memory is None or b <= memory}
    if not fitting:
        return Choice(None, "memory")
    return Choice(preferred(fitting))


def _are_several(files: Mapping[str, int]) -> bool:
    return len({_model_of(name) for name in files}) > 1


def _model_of(name: str) -> str:
    """A file's name without its quantization and part."""
    base = name.rpartition("/")[2]
    if split := _SPLIT.fullmatch(base):
        base = split["stem"]
    base = re.sub(r"\.gguf$", "", base, flags=re.I)
    base = _QUANTIZATION.sub("", base)
    base = re.sub(r"(?<![A-Za-z0-9])UD(?![A-Za-z0-9])", "", base)
    return re.sub(r"[-._]+", "-", base).strip("-").lower()


def preferred(names: Mapping[str, int]) -> str:
    """The file that `choose` prefers, whatever its size.

    Args:
        names: The sizes in bytes by name; at least one.
    """
    for kind in _PREFERRED:
        if found := [name for name in names if quantization_of(name) == kind]:
            return min(found, key=len)
    return min(names, key=lambda name: (-names[name], name))


def closest(name: str, names: Mapping[str, int]) -> str | None:
    """The file whose name is most similar to one that does not exist."""
    import difflib

    by_lower = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), by_lower, 1)
    return by_lower[close[0]] if close else None
