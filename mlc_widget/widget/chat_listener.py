"""Who hears of a conversation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlc_widget.api.requests import JSONDict
from mlc_widget.widget.reply import Reply


@dataclass(frozen=True, slots=True)
class ChatListener:
    """Who hears of a session; everything is called on the I/O thread.

    Attributes:
        on_change: Messages came, went or ended.
        on_delta: A reply grew (`ReplyBuffer`).
        on_mirror: The growing reply's whole text should be synced.
        on_options: The settings changed.
        on_end: A reply ended, in whatever way; called before whoever awaits it wakes.
    """

    on_change: Callable[[], object]
    on_delta: Callable[[JSONDict], object]
    on_mirror: Callable[[], object]
    on_options: Callable[[], object] = lambda: None
    on_end: Callable[[Reply], object] = lambda _: None
