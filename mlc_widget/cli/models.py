"""``mlc_widget models``: lists, finds, downloads, checks and removes models."""

from __future__ import annotations

import argparse
import asyncio
import difflib
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlc_widget.api.errors import BadRequestError, ModelFormatError, ModelNotFoundError
from mlc_widget.engine.store.model_facts import ModelFacts, facts_of, plain, size_text
from mlc_widget.engine.store.packed_weights import copies
from mlc_widget.engine.store.split_files import quantization_of
from mlc_widget.models import builtin_models
from mlc_widget.models.catalogue import catalogue
from mlc_widget.models.inventory import InventoryEntry, inventory, matching
from mlc_widget.models.places import weight_budget


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    text = "list, find, download, check and remove models"
    parser = commands.add_parser("models", help=text, description=f"{text.capitalize()}.")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def add(name: str, text: str, run: Any, argument: str | None = None) -> None:
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if argument is not None:
            action.add_argument("name", metavar=argument)
        action.set_defaults(run=run)

    add("list", "list the models on this disk, and those that can be downloaded by name", _list)
    add("search", "find models by a part of their name, here and on the Hub", _search, "TEXT")
    add("info", "show what is known about a model, or the files of a repository", _info, "MODEL")
    add("pull", "download a model", _pull, "MODEL")
    add("verify", "compare a downloaded model with its checksums", _verify, "MODEL")
    add("rm", "remove a downloaded model from this disk", _rm, "MODEL")


def _list(options: argparse.Namespace) -> None:
    head = ("NAME", "SIZE", "FAMILY", "WEIGHTS", "CONTEXT", "LICENCE", "FITS", "LAST USED")
    rows: list[tuple[str, ...]] = [head]

    def add(name: str, nbytes: int, facts: ModelFacts, memory: int, when: str) -> None:
        context = str(facts.context or "")
        details = (facts.family, facts.quantization, context, plain(facts.licence, 20))
        rows.append((plain(name, 200), size_text(nbytes), *details, _fits(memory), when))

    for name, folder in builtin_models().items():
        files = [path for path in folder.iterdir() if path.is_file()]
        nbytes = sum(path.stat().st_size for path in files)
        facts = replace(facts_of(files), licence="Apache-2.0")
        add(name, nbytes, facts, nbytes, "built in")
    by_name = {name: matching(name) for name in catalogue()}
    for name, model in catalogue().items():
        used = max((e.last_used for e in by_name[name] if e.whole), default=None)
        when = "not downloaded" if used is None else _ago(used)
        weights = quantization_of(model.sources[0].partition("#")[0].partition("@")[0]) or ""
        known = ModelFacts(model.family, weights, model.licence, model.context)
        add(name, model.nbytes, known, model.memory_bytes, when)
    named = [entry for entries in by_name.values() for entry in entries]
    for entry in inventory():
        if entry not in named:
            when = _ago(entry.last_used) if entry.whole else "incomplete"
            if entry.program:
                when = f"{when}, of {entry.program}"
            facts = _facts_of(entry) if entry.whole else ModelFacts()
            add(entry.name, entry.nbytes, facts, entry.nbytes, when)
    _print_table(rows)
    if packed := list(copies()):
        folder, nbytes = packed[0][0].parent, sum(found for _, found, _ in packed)
        print(
            f"Packed weights, which make later loads faster: {size_text(nbytes)} in "
            f"{plain(str(folder), 400)}, which may be deleted."
        )


def _search(options: argparse.Namespace) -> None:
    from mlc_widget.engine.store.hub_api import Hub
    from mlc_widget.engine.store.retrying import GaveUp
    from mlc_widget.engine.store.transfer import DamagedError

    text = options.name.lower()
    names = [*builtin_models(), *catalogue(), *(entry.name for entry in inventory())]
    found = list(dict.fromkeys(name for name in names if text in name.lower()))
    print(*map(plain, found), sep="\n", end="\n" if found else "")
    try:
        repos = Hub().search(options.name)
        for repo in repos:
            print(f"HF://{plain(repo, 200)}")
        if not found and not repos:
            print(f"No model on this disk or on the Hub has {options.name!r} in its name.")
    except (GaveUp, DamagedError, OSError) as error:
        print(f"The Hub was not searched: {' '.join(str(error).split())}", file=sys.stderr)


def _info(options: argparse.Namespace) -> None:
    name = options.name
    model = catalogue().get(name)
    if model is not None:
        print(f"{name}: {model.family}, {model.licence}, {model.context} tokens of context")
        print(f"download: {size_text(model.nbytes)}; memory: {size_text(model.memory_bytes)}")
        print(f"fits this machine: {_fits(model.memory_bytes)}")
        if model.sampling:
            print("sampling:", ", ".join(f"{name} {v}" for name, v in model.sampling.items()))
        print("sources:", *model.sources, sep="\n  ")
    entries = matching(name)
    for entry in entries:
        state = "complete" if entry.whole else "incomplete; `pull` continues the download"
        details = [
            plain(entry.name, 200),
            size_text(entry.nbytes),
            state,
            f"used {_ago(entry.last_used)}",
        ]
        owner = f", among the models of {entry.program}" if entry.program else ""
        print(f"on this disk: {', '.join(details)}{owner}")
        if entry.whole:
            _print_facts(_facts_of(entry))
            print(f"fits this machine: {_fits(entry.nbytes)}")
        print(*entry.files, sep="\n")
    if name in builtin_models():
        folder = builtin_models()[name]
        print(f"{name}: built in, {folder}")
        facts = facts_of([path for path in folder.iterdir() if path.is_file()])
        _print_facts(replace(facts, licence="Apache-2.0"))
    elif model is None:
        if not entries and (path := _path_here(name)) is not None:
            files = [p for p in path.iterdir() if p.is_file()] if path.is_dir() else [path]
            print(f"{path}: {size_text(sum(p.stat().st_size for p in files))}")
            _print_facts(facts_of(files))
            return
        _show_repository(name, known=bool(entries))


def _path_here(name: str) -> Path | None:
    """The file or folder of that name, if there is one."""
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError):  # too long for a name, or the home of an unknown user
        return None


def _facts_of(entry: InventoryEntry) -> ModelFacts:
    """What a model's files say of it, and what its package says of its licence."""
    facts = facts_of(entry.files)
    return facts if facts.licence else replace(facts, licence=plain(entry.licence))


def _print_facts(facts: ModelFacts) -> None:
    details = [
        facts.family,
        f"weights in {facts.quantization}" if facts.quantization else "",
        f"{facts.context} tokens of context" if facts.context else "",
        f"licence: {facts.licence or 'not given in its files'}",
    ]
    print(", ".join(filter(None, details)))


def _show_repository(name: str, *, known: bool) -> None:
    """The files of a repository of the Hub."""
    from mlc_widget.engine.store import hub
    from mlc_widget.engine.store.hub_api import Hub
    from mlc_widget.engine.store.retrying import GaveUp
    from mlc_widget.engine.store.split_files import choose, whole_files
    from mlc_widget.engine.store.transfer import DamagedError

    try:
        wanted = hub.parse(name)
        remote = Hub()
        files = remote.files(wanted.repo, remote.commit(wanted.repo, wanted.revision))
    except (BadRequestError, GaveUp, DamagedError, OSError) as error:
        if not known:
            from mlc_widget.engine.store.model_names import advice

            names = [*builtin_models(), *catalogue(), *(entry.name for entry in inventory())]
            said = " ".join(str(error).split()).rstrip(".")
            if isinstance(error, BadRequestError):  # it is no id of the Hub
                raise ModelNotFoundError(
                    f"{name!r} is not known here. {advice(name, names)}", param="model_id"
                ) from error
            raise ModelNotFoundError(
                f"{name!r} is not on this disk, and was not found on the Hub: {said}.",
                param="model_id",
            ) from error
        return
    ggufs = whole_files({path: listed.size for path, listed in files.items()})
    taken = choose(ggufs, quantization=wanted.quantization, memory=weight_budget()).name
    rows = [("FILE", "SIZE", "FITS", "")]
    rows += [
        (path, size_text(n), _fits(n), "taken by default" if path == taken else "")
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
            bytes_text = f": {size_text(done)} of {size_text(total)}" if done and total else ""
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
        if name in builtin_models():
            raise BadRequestError(
                f"{name!r} is built in: there is nothing to download or remove.", param="model_id"
            )
        names = [entry.name for entry in inventory()]
        close = difflib.get_close_matches(name, [*names, *filter(matching, catalogue())], 1)
        meant = f" Did you mean {close[0]!r}?" if close else ""
        raise ModelNotFoundError(
            f"{name!r} was not downloaded; these were: {', '.join(names) or 'none'}.{meant}",
            param="model_id",
        )
    return entries


def _verify(options: argparse.Namespace) -> None:
    from mlc_widget.engine.store.upkeep import checked

    for entry in _needed(options.name):
        if not entry.whole:
            print(f"{entry.name}: incomplete; `pull` continues the download")
            continue
        count, wrong = checked(entry)
        if wrong:
            remedy = (
                f"Download it again with {entry.program}."
                if entry.program
                else f"Remove it with `mlc_widget models rm {options.name}` and download it again."
            )
            raise ModelFormatError(f"{entry.name} is damaged: {', '.join(wrong)}. {remedy}")
        print(
            f"{entry.name}: identical to the published files"
            if count
            else f"{entry.name}: it was stored without checksums, so it cannot be checked"
        )


def _rm(options: argparse.Namespace) -> None:
    from mlc_widget.engine.store.upkeep import remove

    entries = _needed(options.name)
    for entry in entries:
        if not entry.program:
            remove(entry)
            print(f"{entry.name}: removed, {size_text(entry.nbytes)}")
    if kept := [entry for entry in entries if entry.program]:
        entry = kept[0]
        text = (
            f"{entry.name} is a model of {entry.program} (in {entry.folder}), which is only read "
            f"here: remove it with {entry.remedy}."
        )
        if len(kept) == len(entries):
            raise BadRequestError(text, param="model_id")
        print(text)


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
