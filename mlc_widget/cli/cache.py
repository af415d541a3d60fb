"""``mlc_widget cache``: the replies of maps that are kept on this disk."""

from __future__ import annotations

import argparse
from typing import Any

from mlc_widget.api.table.cache_listing import cleared, listed


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    text = "show or remove the replies of maps that are kept"
    parser = commands.add_parser("cache", help=text, description=f"{text.capitalize()}.")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, text, run in (
        ("list", "show how many replies are kept for each model", listed),
        ("clear", "remove the replies, all or those of one model", cleared),
    ):
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        action.add_argument("--model", help="only those of this model")
        action.add_argument("--file", help="another file than the user's own")
        action.set_defaults(run=_run, shown=run)


def _run(options: argparse.Namespace) -> None:
    print(options.shown(options.file, options.model))
