"""``mlc_widget workers``: the workers that several notebooks share."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    text = "list or stop the workers that notebooks share"
    parser = commands.add_parser("workers", help=text, description=f"{text.capitalize()}.")
    parser.set_defaults(run=_list)
    actions = parser.add_subparsers(title="actions", metavar="ACTION")
    listed = actions.add_parser("list", help="show their models, memory and clients (the default)")
    listed.set_defaults(run=_list)
    stop = actions.add_parser("stop", help="end workers, with all requests that they answer")
    stop.add_argument("name", nargs="+", help="a worker's name")
    stop.set_defaults(run=_stop)


def _list(options: argparse.Namespace) -> None:
    from mlc_widget.proxy.shared_workers import listing, running_workers

    print(listing(asyncio.run(running_workers())))


def _stop(options: argparse.Namespace) -> None:
    from mlc_widget.proxy.shared_workers import stop_worker

    for name in options.name:
        print(f"{name} (process {stop_worker(name).pid}) has ended.")
