"""``mlc_widget models``: what is on this disk, what there is, and how to get or remove it."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Any

from mlc_widget.api.errors import BadRequestError, ModelFormatError, ModelNotFoundError
from mlc_widget.models import builtin_models
from mlc_widget.models.catalogue import catalogue
from mlc_widget.models.inventory import InventoryEntry, inventory, matching
from mlc_widget.models.places import weight_budget


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("models", help="list, find, download, check and remove models")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def add(name: str, text: str, run: Any, argument: str | None = None) -> None:
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if argument is not None:
            action.add_argument("name", metavar=argument)
        action.set_defaults(run=run)

    add("list", "list the models on this disk, and those that can be downloaded by name", _list)
    add("search", "find models by a part of their name, here and on the Hub", _search, "TEXT")
    add("info", "show what is known of a model, and the files of a repository", _info, "MODEL")
    add("pull", "download a model", _pull, "MODEL")
    add("verify", "compare a downloaded model with its checksums", _verify, "MODEL")
    add("rm", "remove a downloaded model from this disk", _rm, "MODEL")


def _list(options: argparse.Namespace) -> None:
    rows = [("NAME", "SIZE", "LICENCE", "FITS", "LAST USED")]
    for name, folder in builtin_models().items():
        nbytes = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        rows.append((name, size(nbytes), "Apache-2.0", _fits(nbytes), "built in"))
    by_name = {name: matching(name) for name in catalogue()}
    for name, model in catalogue().items():
        used = max((e.last_used for e in by_name[name] if e.whole), default=None)
        when = "not downloaded" if used is None else _ago(used)
        rows.append((name, size(model.nbytes), model.licence, _fits(model.memory_bytes), when))
    named = [entry for entries in by_name.values() for entry in entries]
    for entry in inventory():
        if entry not in named:
            when = _ago(entry.last_used) if entry.whole else "not whole"
            rows.append((entry.name, size(entry.nbytes), "", _fits(entry.nbytes), when))
    _print_table(rows)


def _search(options: argparse.Namespace) -> None:
    from mlc_widget.engine.store.hub_api import Hub
    from mlc_widget.engine.store.retrying import GaveUp

    text = options.name.lower()
    names = [*builtin_models(), *catalogue(), *(entry.name for entry in inventory())]
    for name in dict.fromkeys(name for name in names if text in name.lower()):
        print(name)
    try:
        for repo in Hub().search(options.name):
            print(f"HF://{repo}")
    except (GaveUp, OSError) as error:
        print(f"The Hub was not searched: {' '.join(str(error).split())}", file=sys.stderr)


def _info(options: argparse.Namespace) -> None:
    name = options.name
    model = catalogue().get(name)
    if model is not None:
        print(f"{name}: {model.family}, {model.licence}, {model.context} tokens of context")
        print(f"download: {size(model.nbytes)}; memory: {size(model.memory_bytes)}")
        print(f"fits this machine: {_fits(model.memory_bytes)}")
        print("sources:", *model.sources, sep="\n  ")
    entries = matching(name)
    for entry in entries:
        state = "whole" if entry.whole else "not whole"
        print(f"on this disk: {entry.name}, {size(entry.nbytes)}, {state}, {_ago(entry.last_used)}")
        print(*entry.files, sep="\n")
    if name in builtin_models():
        print(f"{name}: built in, {builtin_models()[name]}")
    elif model is None:
        _show_repository(name, known=bool(entries))


def _show_repository(name: str, *, known: bool) -> None:
    """The files of a repository of the Hub."""
    from mlc_widget.engine.store import hub
    from mlc_widget.engine.store.hub_api import Hub
    from mlc_widget.engine.store.retrying import GaveUp
    from mlc_widget.engine.store.split_files import choose, whole_files

    try:
        wanted = hub.parse(name)
        remote = Hub()
        files = remote.files(wanted.repo, remote.commit(wanted.repo, wanted.revision))
    except (BadRequestError, GaveUp, OSError) as error:
        if not known:
            raise ModelNotFoundError(
                f"{name!r} is not known here: {' '.join(str(error).split())}", param="model_id"
            ) from error
        return
    ggufs = whole_files({path: listed.size for path, listed in files.items()})
    taken = choose(ggufs, quantization=wanted.quantization, memory=weight_budget()).name
    rows = [("FILE", "SIZE", "FITS", "")]
    rows += [
        (path, size(n), _fits(n), "taken by default" if path == taken else "")
        for path, n in ggufs.items()
    ]
    _print_table(rows)


def _pull(options: argparse.Namespace) -> None:
    from mlc_widget.engine.store.model_folder import fetch

    shown = 0

    def report(phase: str, fraction: float, text: str, **counts: int | None) -> None:
        nonlocal shown
        if sys.stderr.isatty():
            done, total = counts.get("bytes_done"), counts.get("bytes_total")
            bytes_text = f": {size(done)} of {size(total)}" if done and total else ""
            line = f"{text}{bytes_text}"
            print("\r" + line.ljust(shown), end="", file=sys.stderr, flush=True)
            shown = len(line)

    try:
        path = asyncio.run(fetch(options.name, report))
    finally:
        if shown:
            print(file=sys.stderr)
    print(path)


def _needed(name: str) -> list[InventoryEntry]:
    entries = matching(name)
    if not entries:
        known = ", ".join(entry.name for entry in inventory()) or "none"
        raise ModelNotFoundError(
            f"{name!r} was not downloaded; these were: {known}.", param="model_id"
        )
    return entries


def _verify(options: argparse.Namespace) -> None:
    from mlc_widget.engine.store.upkeep import damaged

    for entry in _needed(options.name):
        if not entry.whole:
            print(f"{entry.name}: not whole; `pull` continues the download")
        elif wrong := damaged(entry):
            raise ModelFormatError(
                f"{entry.name} is damaged: {', '.join(wrong)}. Remove it with `mlc_widget models "
                f"rm {options.name}` and download it again."
            )
        else:
            print(f"{entry.name}: as it was published")


def _rm(options: argparse.Namespace) -> None:
    from mlc_widget.engine.store.upkeep import remove

    for entry in _needed(options.name):
        remove(entry)
        print(f"{entry.name}: removed, {size(entry.nbytes)}")


def size(nbytes: int) -> str:
    """A number of bytes, for people."""
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"


def _fits(nbytes: int) -> str:
    budget = weight_budget()
    return "unknown" if budget is None else "yes" if nbytes <= budget else "no"


def _ago(when: float) -> str:
    days = int((time.time() - when) // 86_400)
    return "today" if days <= 0 else "yesterday" if days == 1 else f"{days} days ago"


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
