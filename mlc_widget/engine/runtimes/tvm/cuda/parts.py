"""Cuts attention tiles into parts of the keys, so that long contexts keep the whole GPU busy.

Where the keys are cut, and the order in which the parts are joined, depend only on a row's
position; see `tensor_attention.make_tensor_attention`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from mlc_widget.engine.runtimes.tvm.memory import Array

NO_TILE: Final = (0, -(1 << 20), 0)
"""A tile that the kernel ignores, as no row has that part."""
_FEW_ROWS: Final = 32
"""Steps of more rows keep the GPU busy if each block has several rows."""


def cut_tiles(tiles: Array, position: Array, part: int, most: int) -> Array:
    """Cut tiles into parts of the keys, as long as there is room.

    Args:
        tiles: (n, 3) first row, number of rows, sequence.
        position: The position of each row.
        part: The number of keys of a part.
        most: The largest number of tiles, at least n and the number of rows of a step of few.

    Returns:
        (at most `most`, 3) tiles. One of a part has minus the number of the part as its second
        value. A row's parts are adjacent and ascending.
    """
    if (position < part).all():
        return tiles
    last = position[tiles[:, 0] + tiles[:, 1] - 1]
    if tiles[:, 1].sum() <= _FEW_ROWS:  # a part has one row
        tiles = _rows_of(tiles, last >= part)
        last = position[tiles[:, 0] + tiles[:, 1] - 1]
    parts = np.where(tiles[:, 1] == 1, last // part + 1, 1)
    parts[len(tiles) + np.cumsum(parts - 1) > most] = 1
    ends = np.cumsum(parts)
    cut = np.repeat(tiles, parts, axis=0)
    number = np.arange(len(cut), dtype=np.int32) - np.repeat(ends - parts, parts)
    of_a_part = np.repeat(parts > 1, parts)
    cut[of_a_part, 1] = -number[of_a_part]
    return cut


def _rows_of(tiles: Array, which: Array) -> Array:
    """Cut some tiles into their rows."""
    counts = np.where(which, tiles[:, 1], 1)
    cut = np.repeat(tiles, counts, axis=0)
    within = np.arange(len(cut), dtype=np.int32) - np.repeat(np.cumsum(counts) - counts, counts)
    cut[:, 0] += within
    cut[np.repeat(which, counts), 1] = 1
    return cut


def sizes(rows: int, most: int) -> list[int]:
    """The numbers of tiles for which to record a decode step of some rows, ascending to `most`.

    A step with fewer tiles than its size has `NO_TILE` for the rest, at most a third.
    """
    found, size = [rows], rows
    while size < most:
        found += [min(size * 3 // 2, most), min(size * 2, most)]
        size *= 2
    return sorted(set(found))
