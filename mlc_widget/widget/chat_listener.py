"""The callbacks of a conversation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlc_widget.api.requests import JSONDict
from mlc_widget.widget.reply import Reply


@dataclass(frozen=True, slots=True)
class ChatListener:
    """The callbacks of a session, all called on the I/O thread.

    Attributes:
        on_change: Messages were added or removed, or have ended.
        on_delta: A reply has new text (`ReplyBuffer`).
        on_mirror: The growing reply's whole text should be synced.
        on_options: The settings changed.
        on_end: A reply has ended, in any way; called before its `await` returns.
    """

    on_change: Callable[[], object]
    on_delta: Callable[[JSONDict], object]
    on_mirror: Callable[[], object]
    on_options: Callable[[], object] = lambda: None
    on_end: Callable[[Reply], object] = lambda _: None
