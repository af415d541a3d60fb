"""Names of GGUF files: the parts of a split one, and which quantization to take first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_SPLIT: Final = re.compile(
    r"(?P<stem>.+-)(?P<number>\d{5})(?P<rest>-of-(?P<count>\d{5})\.gguf)", re.I | re.S
)
_MOST: Final = 1000
_PREFERRED: Final = ("Q4_K_M", "Q4_0", "Q8_0")
"""What people take first: small, with little loss."""
_NO_MODEL: Final = re.compile(r"(?:^|[/._-])(?:mmproj|imatrix)(?:[._-]|$)", re.I)


def parts_of(name: str) -> list[str]:
    """All parts of a split file, in order; of another, itself."""
    split = _SPLIT.fullmatch(name)
    if split is None:
        return [name]
    count = min(int(split["count"]), _MOST)
    return [f"{split['stem']}{n:05}{split['rest']}" for n in range(1, count + 1)]


def whole_files(sizes: Mapping[str, int]) -> dict[str, int]:
    """The models among files of a repository.

    Args:
        sizes: Bytes by name; what is no GGUF file is left out.

    Returns:
        Bytes by name; a split file counts as one, by the name of its first part.
    """
    whole: dict[str, int] = {}
    for name in sorted(sizes):
        if name.lower().endswith(".gguf") and not _NO_MODEL.search(name):
            first = parts_of(name)[0] if name in parts_of(name) else name
            whole[first] = whole.get(first, 0) + sizes[name]
    return whole


def preferred(names: Mapping[str, int]) -> str:
    """The file to take where nothing says which: Q4_K_M, else Q4_0, else Q8_0, else the smallest.

    Args:
        names: Bytes by name; at least one.
    """
    for kind in _PREFERRED:
        pattern = re.compile(rf"(?<![A-Za-z0-9]){kind}(?![A-Za-z0-9_])", re.I)
        if found := [name for name in names if pattern.search(name)]:
            return min(found, key=len)
    return min(names, key=lambda name: (names[name], name))
