"""The Python side of the widgets; the page's side is in js/.

`LoadProgress` and `ChatWidget` show state that belongs to the engine's I/O thread (`session`), and
pass the page's intents on to it (`intents`), even while a cell is running (`control`). So does
`map_progress`, which shows a map.
"""

from mlc_widget.widget.chat import ChatWidget
from mlc_widget.widget.compare import CompareWidget
from mlc_widget.widget.load import LoadProgress, display_load_progress
from mlc_widget.widget.reply import Reply

__all__ = ["ChatWidget", "CompareWidget", "LoadProgress", "Reply", "display_load_progress"]
