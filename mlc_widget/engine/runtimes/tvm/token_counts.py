"""Counts how often tokens occur, as arrays that grow with the text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mlc_widget.engine.runtimes.tvm.draws import Ids, Values


class TokenCounts:
    """How often each of some tokens occurs.

    Args:
        tokens: The first tokens.
    """

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        ids, counts = np.unique(np.fromiter(tokens, np.int32), return_counts=True)
        room = max(64, 2 * len(ids))
        self._at = {token: i for i, token in enumerate(ids.tolist())}
        self._ids: Ids = np.zeros(room, np.int32)
        self._counts: Values = np.zeros(room, np.float32)
        self._ids[: len(ids)], self._counts[: len(ids)] = ids, counts

    def add(self, token: int) -> None:
        """Count a token."""
        at = self._at.setdefault(token, len(self._at))
        if at == len(self._ids):
            self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
            self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
        self._ids[at] = token
        self._counts[at] += 1

    def after(self, more: Sequence[int] = ()) -> tuple[Ids, Values]:
        """The distinct tokens, and the count of each, if `more` followed; not to be changed."""
        n = len(self._at)
        ids, counts = self._ids[:n], self._counts[:n]
        if not more:
            return ids, counts
        new = [token for token in dict.fromkeys(more) if token not in self._at]
        at = self._at | {token: n + i for i, token in enumerate(new)}
        counts = np.concatenate((counts, np.zeros(len(new), np.float32)))
        for token in more:
            counts[at[token]] += 1
        return np.concatenate((ids, np.array(new, np.int32))), counts
