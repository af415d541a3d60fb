"""What `reload` is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlc_widget.api.errors import BadRequestError


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """Models to be loaded, in order, each with its `chat_opts`."""

    model_ids: tuple[str, ...]
    chat_opts: tuple[Mapping[str, Any], ...]

    @classmethod
    def read(
        cls, model_ids: Sequence[str], chat_opts: Sequence[Mapping[str, Any] | None] | None
    ) -> LoadTarget:
        """Check and normalise `reload`'s arguments.

        Raises:
            BadRequestError: naming the argument and the value.
        """
        ids = tuple(model_ids)
        if not ids or not all(isinstance(m, str) and m for m in ids):
            raise BadRequestError(
                f"model_id = {list(ids)!r}: give at least one model id, each a string.",
                param="model_id",
            )
        if len(set(ids)) != len(ids):
            raise BadRequestError(f"model_id = {list(ids)!r}: give each once.", param="model_id")
        opts = tuple(chat_opts or [None] * len(ids))
        if len(opts) != len(ids):
            raise BadRequestError(
                f"chat_opts has {len(opts)} entries for {len(ids)} models: give one each.",
                param="chat_opts",
            )
        for one in opts:
            if one is not None and not isinstance(one, Mapping):
                raise BadRequestError(f"chat_opts = {one!r}: give a mapping.", param="chat_opts")
        return cls(ids, tuple(dict(o or {}) for o in opts))
