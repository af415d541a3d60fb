"""How the widgets get an engine's link."""

from __future__ import annotations

import inspect

from mlc_widget.api.engine_link import EngineLink
from mlc_widget.api.request_values import shortened


def link_of(engine: object) -> EngineLink:
    """The link of a kernel or server engine; a link is returned as it is.

    Raises:
        TypeError: it is anything else; the message says what to pass.
    """
    link = getattr(engine, "link", engine)
    if not isinstance(link, EngineLink):
        if inspect.iscoroutine(engine):
            raise TypeError(
                f"{engine.__name__}(…) returns a coroutine, which gives the engine when it is "
                f"awaited: write `engine = await {engine.__name__}(…)`."
            )
        raise TypeError(
            f"a widget needs an engine in a worker kernel or on a server, not {shortened(engine)}: "
            "make one with `engine = await create_kernel_mlc_engine(…)`"
        )
    return link
