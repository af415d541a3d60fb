"""Logit processors: code beside the model that changes logits before a token is chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias


class LogitProcessor(Protocol):
    """Changes the logits of one generation; each choice of each request gets its own."""

    def process_logits(self, logits: Any) -> Any:
        """Return the logits to sample from, a float32 array of shape (vocab_size,).

        Args:
            logits: The model's, of the same type and shape. They may be changed and returned.
        """

    def process_sampled_token(self, token_id: int) -> None:
        """Take note of the token that was chosen."""


LogitProcessorFactory: TypeAlias = Callable[[], LogitProcessor]
