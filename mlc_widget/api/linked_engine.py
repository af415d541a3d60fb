"""What the engines that widgets and magics use have in common: a link, and the state it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from mlc_widget.api.engine_base import EngineBase
from mlc_widget.api.engine_link import EngineLink, EngineState

if TYPE_CHECKING:
    _State: TypeAlias = EngineState
else:  # jedi, which completes in notebooks, fails at a property that gives a `Literal`
    _State = str


class LinkedEngine(EngineBase):
    """An engine whose core is an `EngineLink`."""

    _core: EngineLink

    @property
    def link(self) -> EngineLink:
        """Observes and controls this engine from any thread, as the widgets and the magics do.

        It does not keep the engine alive.
        """
        return self._core

    @property
    def state(self) -> _State:
        """``idle``, ``starting``, ``loading``, ``ready``, ``dead`` or ``terminated``."""
        return self._core.snapshot.state

    @property
    def model_id(self) -> str | None:
        """The model that is loaded or loading; several are joined by commas."""
        return self._core.snapshot.model_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.model_id or 'no model'}: {self.state}>"
