"""The tokens of a reply and their probabilities, for the page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from mlc_widget.api.requests import JSONDict

_MOST = 8192


def tokens_json(tokens: Iterable[JSONDict]) -> list[list[Any]]:
    """Of each token ``[text, probability, likeliest]``; `likeliest` are such pairs in its place.

    Args:
        tokens: Entries of OpenAI's ``logprobs["content"]``.
    """
    return [
        [*_pair(token), [_pair(other) for other in token.get("top_logprobs") or ()]]
        for token, _ in zip(tokens, range(_MOST), strict=False)
    ]


def _pair(token: JSONDict) -> list[Any]:
    return [token["token"], round(math.exp(min(0.0, token["logprob"])), 5)]
