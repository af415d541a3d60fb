"""Execute notebooks/quickstart.ipynb in a real kernel and print the conversation as it streams.

``make demo`` runs this. Printed text is the cells' own output, as it arrives; a rendered copy goes
to out/quickstart.html.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
RENDERED = ROOT / "out" / "quickstart.html"
EXPECTED_TOKENS_PER_S = 50.0


class StreamingClient(NotebookClient):
    """A notebook client that prints what cells print, while they print it."""

    def output(self, outs: list[Any], msg: Any, display_id: str, cell_index: int) -> Any:
        """Take one output message of a cell."""
        content = msg["content"]
        if msg["msg_type"] == "stream":
            print(content["text"], end="", flush=True)
        elif msg["msg_type"] == "error":
            print(content["ename"], content["evalue"], sep=": ", file=sys.stderr)
        return super().output(outs, msg, display_id, cell_index)


def show_source(cell: Any, **_: Any) -> None:
    """Print a code cell before it runs."""
    lines = "".join(cell["source"]).splitlines()
    print("\n" + "\n".join(f"\033[2m>>> {line}\033[0m" for line in lines), flush=True)


def main() -> int:
    """Run the notebook; 0 if every cell ran and the model was fast enough to talk to."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = StreamingClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
        on_cell_execute=lambda cell, **kw: cell["cell_type"] == "code" and show_source(cell, **kw),
    )
    started = time.monotonic()
    try:
        client.execute()
    except CellExecutionError as error:
        print(f"\nA cell failed:\n{error}", file=sys.stderr)
        return 1
    html, _ = HTMLExporter().from_notebook_node(notebook)
    RENDERED.parent.mkdir(exist_ok=True)
    RENDERED.write_text(html, encoding="utf-8")
    nbformat.write(notebook, RENDERED.with_suffix(".ipynb"))
    printed = "".join(
        output["text"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output["output_type"] == "stream"
    )
    speeds = [float(s) for s in re.findall(r"([\d.]+) tok/s", printed)]
    if not speeds:
        print("\nNo speed was printed: the notebook did not converse.", file=sys.stderr)
        return 1
    print(f"\nDone in {time.monotonic() - started:.1f} s; rendered copy: {RENDERED}")
    if max(speeds) < EXPECTED_TOKENS_PER_S:
        print(
            f"Note: {max(speeds):.0f} tok/s is slow; {EXPECTED_TOKENS_PER_S:.0f} or more is usual "
            "on two idle cores."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
