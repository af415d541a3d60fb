"""IPython input transformers that prepare cells with our magics before they run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from mlc_widget.api.clients import client_of

_ASKS: Final = re.compile(
    r"get_ipython\(\)\.run_(?:cell_magic\('(?:chat|map)'|line_magic\('mlc', '(?:explain|load)\b)"
)
_EMPTY_CELL: Final = re.compile(
    r"^(get_ipython\(\)\.run_cell_magic\('(?:chat|map)', .*, )''\)(\s*)$"
)
_LOADS_EXTENSION: Final = re.compile(
    r"^\s*get_ipython\(\)\.run_line_magic\('load_ext', 'mlc_widget\s*'\)\s*$"
)
_MAGICS: Final = "get_ipython().magics_manager.registry['MLCMagics']"


class CellTransformer:
    """Prepares the cells of one notebook.

    - Where nothing can be shown after a cell has ended, a cell that asks the model something ends
      with the reply, and one that loads a model with the load, or with the error of one of these.
      It awaits, so that the notebook's functions can be called meanwhile.
    - IPython refuses a cell magic without a body, such as ``%%chat --help``; ours get an empty
      line for one.
    - ``%load_ext mlc_widget`` defines the public names again if ``%reset`` has removed them.

    Args:
        shell: IPython's.
        tell: Called before each cell with whether it will await its reply.
    """

    def __init__(self, shell: Any, tell: Callable[[bool], object]) -> None:
        self._shell, self._tell = shell, tell

    def __call__(self, lines: Sequence[str]) -> list[str]:
        """The lines of a cell, as they are to run."""
        asks = any(_ASKS.match(line) for line in lines)
        waits = asks and self._shell.autoawait and client_of(self._shell) != "page"
        self._tell(waits)
        made = [_EMPTY_CELL.sub(r"\1'\\n')\2", line) for line in lines]
        made = [
            f"{line.rstrip()}; {_MAGICS}.offer_names()\n" if _LOADS_EXTENSION.match(line) else line
            for line in made
        ]
        return [*made, f"await {_MAGICS}.settle()\n"] if waits else made
