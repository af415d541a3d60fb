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
FEW_ROWS: Final = 32
"""Steps of more rows keep the GPU busy if each block has several rows, and several tiles."""
SLOTS: Final = 16
"""The number of pairs of a row and a query head in a tile, which are the rows of A."""


def heads_of(group: int) -> int:
    """The number of query heads of one key head, of `group`, that share a block."""
    return min(group, SLOTS)


def rows_of(group: int) -> int:
    """The number of rows of a full tile."""
    return SLOTS // heads_of(group)


def cut_tiles(
    tiles: Array, position: Array, part: int, most: int, rows: int | None = None
) -> Array:
    """Cut tiles into parts of the keys, as long as there is room.

    Args:
        tiles: (n, 3) first row, number of rows, sequence.
        position: The position of each row.
        part: The number of keys of a part.
        most: The largest number of tiles, at least n and the number of rows of a step of few.
        rows: The largest number of rows of a tile in a step of few, if that is less.

    Returns:
        (at most `most`, 3) tiles. One of a part has minus the number of the part as its second
        value. A row's parts are adjacent and ascending.
    """
    few = tiles[:, 1].sum() <= FEW_ROWS
    if few and rows is not None and (tiles[:, 1] > rows).any():
        tiles = _cut(tiles, np.full(len(tiles), rows))
    if (position < part).all():
        return tiles
    last = position[tiles[:, 0] + tiles[:, 1] - 1]
    if few:  # a part has one row
        tiles = _cut(tiles, np.where(last >= part, 1, tiles[:, 1]))
        last = position[tiles[:, 0] + tiles[:, 1] - 1]
    parts = np.where(tiles[:, 1] == 1, last // part + 1, 1)
    parts[len(tiles) + np.cumsum(parts - 1) > most] = 1
    ends = np.cumsum(parts)
    cut = np.repeat(tiles, parts, axis=0)
    number = np.arange(len(cut), dtype=np.int32) - np.repeat(ends - parts, parts)
    of_a_part = np.repeat(parts > 1, parts)
    cut[of_a_part, 1] = -number[of_a_part]
    return cut


def _cut(tiles: Array, rows: Array) -> Array:
    """Cut each tile into some of at most as many rows as are given for it."""
    counts = -(-tiles[:, 1] // rows)
    cut = np.repeat(tiles, counts, axis=0)
    within = np.arange(len(cut), dtype=np.int32) - np.repeat(np.cumsum(counts) - counts, counts)
    before = (within * np.repeat(rows, counts)).astype(np.int32)
    cut[:, 0] += before
    cut[:, 1] = np.minimum(cut[:, 1] - before, np.repeat(rows, counts))
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
