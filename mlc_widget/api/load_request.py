"""The models that a `reload` or a request asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from mlc_widget.api.app_config import AppConfig
from mlc_widget.api.chat_opts import check_chat_opts
from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_values import bad, model
from mlc_widget.api.server_urls import looks_like_server


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """Models to be loaded, in order, each with its `chat_opts`."""

    model_ids: tuple[str, ...]
    chat_opts: tuple[Mapping[str, Any], ...]

    @classmethod
    def read(
        cls,
        model_ids: Sequence[str | PathLike[str]],
        chat_opts: Sequence[Mapping[str, Any] | None] | None,
    ) -> LoadTarget:
        """Check and normalise `reload`'s arguments.

        Raises:
            BadRequestError: An argument is invalid; the message names it and its value.
        """
        ids = tuple(model("model_id", one) for one in model_ids)
        if not ids:
            raise bad("model_id", [], "give at least one model id.")
        for one in ids:
            if looks_like_server(one):
                raise bad(
                    "model_id",
                    one,
                    "it is the address of a server: `create_kernel_mlc_engine(address)` or "
                    "`%mlc load address` makes an engine on it.",
                )
        if len(set(ids)) != len(ids):
            raise bad("model_id", list(ids), "give each model only once.")
        opts = tuple(chat_opts or [None] * len(ids))
        if len(opts) != len(ids):
            raise BadRequestError(
                f"chat_opts has {len(opts)} entries for {len(ids)} models: give one for each "
                "model.",
                param="chat_opts",
            )
        return cls(ids, tuple(check_chat_opts("chat_opts", one) for one in opts))


@dataclass(frozen=True, slots=True)
class RequiredModels:
    """The models that a request needs; if others are loaded, these are loaded first.

    Attributes:
        target: The models.
        app_config: Defines their names.
        resends: Whether the client sends the request again if they have just been replaced.
    """

    target: LoadTarget
    app_config: AppConfig
    resends: bool = False
