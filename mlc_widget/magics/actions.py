"""The commands of `%mlc`; each function is named after its command."""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import logging
import subprocess
import sys
import threading
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from IPython.core.error import UsageError

from mlc_widget.api.errors import WorkerStartError
from mlc_widget.api.server_urls import looks_like_server
from mlc_widget.magics.engine_registry import EngineRegistry, models_of
from mlc_widget.widget.describe import LIMIT, describe_error, shortened
from mlc_widget.widget.notebook_variables import last_error
from mlc_widget.widget.transcript_output import in_notebook

if TYPE_CHECKING:
    from mlc_widget.api.engine_link import EngineLink
    from mlc_widget.api.linked_engine import LinkedEngine
    from mlc_widget.api.statistics import EngineStatistics
    from mlc_widget.magics.started_load import StartedLoad

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_PATIENCE_S: Final = 10.0
_SHOWN_RECORDS: Final = 100
_FLAGS: Final = {
    "runtime": "--runtime",
    "device": "--device",
    "python": "--python",
    "kernel_name": "--kernel",
    "share": "--share",
    "api_key_env": "--api-key-env",
}
"""By an engine's options."""
_SERVER: Final = ("runtime", "server")


def load(registry: EngineRegistry, given: argparse.Namespace) -> StartedLoad:
    """Start a load and show its progress; returns what waits for its end."""
    from mlc_widget.magics.started_load import StartedLoad
    from mlc_widget.widget import display_load_progress

    options = _engine_options(given)
    models = given.model
    if looks_like_server(models[0]):
        options, models = _on_server(models[0], options), models[1:]
    elif "api_key_env" in options:
        raise UsageError("--api-key-env: it is for a server's address, such as http://…/v1.")
    known = registry.engines()
    engine = registry.find(given.to) if given.to is None or given.to in known else None
    if engine is not None:
        engine = _engine_with(registry, engine, options)
    if engine is None:
        engine = registry.make(given.to, **options)
    if in_notebook():
        begin_load(engine, models)
        display_load_progress(engine.link)
    else:
        shown = display_load_progress(engine.link)
        begin_load(engine, models)
        shown()
        progress = engine.link.snapshot.progress
        if progress is not None and progress.warning:
            print(progress.warning)
    return StartedLoad(engine.link)


def _on_server(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an engine on a server.

    Raises:
        UsageError: there are some of a worker among them.
    """
    given = {name: value for name, value in options.items() if (name, value) != _SERVER}
    if others := given.keys() - {"api_key_env"}:
        flags = " ".join(sorted(_FLAGS[name] for name in others))
        raise UsageError(f"{flags}: only for a worker, but {url} is a server; leave this out.")
    return {**given, "url": url}


def _engine_with(
    registry: EngineRegistry, engine: LinkedEngine, options: Mapping[str, Any]
) -> LinkedEngine:
    """An engine that was made with these options: the given one, or another that replaces it.

    Raises:
        UsageError: it was not made by a magic, and so is not ours to replace.
    """
    made = registry.options_of(engine)
    if made and options != made and isinstance(engine.link.snapshot.error, WorkerStartError):
        name = registry.name_of(engine)
        registry.replace(engine, dict(options))  # what it was made with may be why
        if dropped := " ".join(_FLAGS[option] for option in made if option not in options):
            print(f"{dropped}: left out of the new engine, as the worker did not start with it.")
        return registry.need(name)
    if made is not None and options.items() <= made.items():
        return engine
    name = registry.name_of(engine)
    flags = " ".join(options["url"] if o == "url" else _FLAGS[o] for o in options)
    if made is None:
        if not options:
            return engine
        raise UsageError(
            f"{flags}: {name} is running already, and these options are for a new engine. Choose "
            f"another name, such as --to {name.strip('_')}_2, or end {name} with "
            f"`{name}.terminate()`."
        )
    on_server = "url" in made or "url" in options  # it has no options in common with a worker
    registry.replace(engine, {**({} if on_server else made), **options})
    print(f"{flags}: a new engine replaces {name}.")
    return registry.need(name)


def begin_load(engine: LinkedEngine, models: Sequence[str]) -> None:
    """Load models in the background; the engine's state shows how it ends.

    On a server, none means its only one.

    In a terminal it waits, as nothing can be shown beside the prompt.
    """
    link = engine.link
    if in_notebook():

        async def begin() -> None:
            link.begin_reload(list(models))

        link.submit(begin()).result()
    else:
        link.submit(link.reload(list(models))).result()


def unload(registry: EngineRegistry, given: argparse.Namespace) -> None:
    """Unload all models."""
    engine = registry.need(given.to)
    names = ", ".join(models_of(engine))
    if not names:
        print("No model is loaded.")
    elif _wait(engine, engine.link.unload()) is not _NOT_YET:
        print(f"{names} is unloaded; its memory is free.")
    else:
        print(f"{names} is being unloaded.")


def models(registry: EngineRegistry, given: argparse.Namespace) -> None:
    """List models and engines."""
    if given.action is not None:
        _run_models([given.action, *given.name])
        return
    from mlc_widget.models import builtin_models
    from mlc_widget.models.catalogue import catalogue
    from mlc_widget.models.inventory import matching, model_choices

    print(f"Built in: {', '.join(builtin_models()) or 'none'}")
    for name, model in catalogue().items():
        here = any(entry.whole for entry in matching(name))
        what = "Downloaded" if here else "To download"
        print(f"{what}: {name} ({model.nbytes / 1e6:.0f} MB, {model.licence})")
    for name in model_choices():
        if name not in builtin_models() and name not in catalogue():
            print(f"Downloaded: {name}")
    for name, engine in registry.engines().items():
        snapshot = engine.link.snapshot
        facts = [snapshot.model_id or "no model", snapshot.state, snapshot.device or ""]
        print(f"{name}: {', '.join(fact for fact in facts if fact)}")


def _run_models(arguments: Sequence[str]) -> None:
    """Run `mlc_widget models` in a process of its own; a download goes on behind the cell."""
    command = [sys.executable, "-P", "-m", "mlc_widget", "models", *arguments]
    if arguments[0] == "pull":
        threading.Thread(target=subprocess.run, args=(command,), daemon=True).start()
        print("The download goes on in the background. `%mlc models list` shows what is here.")
        return
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, end="")
    if done.returncode:
        raise UsageError(done.stderr.strip().splitlines()[-1] if done.stderr else "it failed")
    if done.stderr:
        print(done.stderr, end="")


def cache(registry: EngineRegistry, given: argparse.Namespace) -> None:
    """Show or remove the replies of maps that are kept."""
    from mlc_widget.api.table.cache_listing import cleared, listed

    print((cleared if given.action == "clear" else listed)(given.file, given.model))


def workers(registry: EngineRegistry, given: argparse.Namespace) -> None:
    """List the workers that notebooks share, or stop them."""
    from mlc_widget.api.home_loop import HomeLoop
    from mlc_widget.proxy.shared_workers import listing, running_workers, stop_worker

    if given.action != "stop":
        print(listing(HomeLoop.shared().submit(running_workers()).result()))
        return
    if not given.name:
        raise UsageError("%mlc workers stop: name the workers to stop.")
    for name in given.name:
        print(f"{name} (process {stop_worker(name).pid}) has ended.")


def tools(registry: EngineRegistry, given: argparse.Namespace) -> None:
    """List, add or end the MCP servers of `%%chat`."""
    from mlc_widget.magics.tools import change_servers

    print(change_servers(registry.servers, given.action, given.words))


def stop(registry: EngineRegistry, given: argparse.Namespace) -> None:
    """End all running requests of the engine."""
    engine = registry.need(given.to)
    for conversation in registry.spoken(engine):
        conversation.stop()
    engine.link.submit(_quietly(engine.link.interrupt_generate()))


def reset(registry: EngineRegistry, given: argparse.Namespace) -> None:
    """Start a new conversation."""
    engine = registry.need(given.to)
    registry.conversation(engine, new=True)
    for model in models_of(engine) or (None,):
        engine.link.submit(_quietly(engine.link.reset_chat(False, model)))
    print("The next %%chat starts a new conversation.")


def stats(registry: EngineRegistry, given: argparse.Namespace) -> None:
    """Print the engine's state and statistics."""
    engine = registry.need(given.to)
    link = engine.link
    if link.snapshot.state != "ready":
        print(f"{link.snapshot.model_id or 'No model'}: {link.snapshot.state}")
        return
    if link.snapshot.hang is not None:  # it would not answer
        print(f"{link.snapshot.hang.message} `%mlc restart` continues in a new worker.")
        return
    facts = _wait(engine, _facts(link, _meant(engine, given.model)))
    if facts is _NOT_YET:
        print(f"The engine has not answered for {_PATIENCE_S:.0f} s; it may be busy.")
    else:
        print("\n".join(facts))


def _meant(engine: LinkedEngine, named: str | None) -> Sequence[str]:
    """The models that a command is about: the one that is named, or all.

    Raises:
        UsageError: the named one is not loaded.
    """
    loaded = models_of(engine)
    if named is not None and named not in loaded:
        known = ", ".join(loaded) or "none"
        raise UsageError(f"--model {named}: this model is not loaded; loaded: {known}.")
    return loaded if named is None else [named]


async def _facts(link: EngineLink, models: Sequence[str]) -> list[str]:
    info, metrics, statistics, speeds = await asyncio.gather(
        link.device_info(),
        link.metrics(),
        link.statistics(),
        asyncio.gather(*(link.runtime_stats_text(model) for model in models)),
    )
    device = link.snapshot.device or "an unknown device"
    name = info.get("device_name")
    lines = [f"{', '.join(models)} on {f'{name} ({device})' if name else device}"]
    taken, free = info.get("model_memory_bytes"), info.get("device_memory_free_bytes")
    there = info.get("device_memory_bytes")
    if name and taken is not None and free is not None and there is not None:
        lines.append(
            f"GPU memory: {taken / 2**20:,.0f} MiB for the model, {free / 2**20:,.0f} MiB free "
            f"of {there / 2**20:,.0f} MiB"
        )
    used, memory = info.get("memory_used_bytes"), info.get("memory_bytes")
    if used is not None and memory is not None:
        lines.append(
            f"memory: {used / 2**20:,.0f} MiB in the worker, "
            f"of {memory / 2**20:,.0f} MiB on its machine"
        )
    several = len(models) > 1
    lines += [f"{m}: {s}" if several else s for m, s in zip(models, speeds, strict=True)]
    lines.append(
        f"tokens so far: {metrics['prompt_tokens_sum']:,.0f} in, "
        f"{metrics['completion_tokens_sum']:,.0f} out, "
        f"in {_count(int(metrics['finished_requests']), 'request')}"
    )
    return [*lines, *_activity(statistics)]


def _activity(statistics: EngineStatistics) -> list[str]:
    """What runs now, and what the worker has been through."""
    waiting = statistics.waiting_requests
    now = f"now: {_count(statistics.running_requests, 'request')}"
    lines = [now if waiting is None else f"{now}, {waiting:,} of them waiting"]
    sent, received = statistics.bytes_sent, statistics.bytes_received
    if statistics.worker_restarts is not None and sent is not None and received is not None:
        lines.append(
            f"worker: {_count(statistics.worker_restarts, 'restart')}, "
            f"{sent / 2**20:,.1f} MiB sent, {received / 2**20:,.1f} MiB received"
        )
    if statistics.other_clients is not None:
        lines.append(
            f"shared with {_count(statistics.other_clients, 'other client')}, which have "
            f"{_count(statistics.other_clients_requests or 0, 'request')}"
        )
    return lines


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def logs(registry: EngineRegistry, given: argparse.Namespace) -> None:
    """Print what has happened to the engine and its worker."""
    engine = registry.need(given.to)
    records = engine.link.submit(engine.link.logs()).result()
    if earlier := len(records[:-_SHOWN_RECORDS]):
        name = registry.name_of(engine)
        print(f"{_count(earlier, 'earlier record')}: in the list that {name}.logs() returns.")
    print("\n".join(map(str, records[-_SHOWN_RECORDS:])) or "Nothing has been logged yet.")


def restart(registry: EngineRegistry, given: argparse.Namespace) -> None:
    """Kill the worker and start loading the same models in a new one."""
    from mlc_widget.widget import display_load_progress

    link = registry.need(given.to).link
    display_load_progress(link)
    if in_notebook():
        link.submit(_quietly(link.restart()))
    else:
        link.submit(link.restart()).result()


def explanation_wanted() -> str:
    """The question about the last error.

    Raises:
        UsageError: there was none.
    """
    error = last_error()
    if error is None:
        raise UsageError("%mlc explain: no cell has failed yet.")
    shown = shortened(describe_error(error), LIMIT)
    return f"Explain this Python error in plain words, and say how to fix it.\n\n```\n{shown}\n```"


def _engine_options(given: argparse.Namespace) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if given.runtime:
        options["runtime"] = given.runtime
    if given.device:
        options["device"] = given.device
    if given.python:
        options["python"] = given.python
    if given.kernel:
        options["kernel_name"] = given.kernel
    if given.share:
        options["share"] = given.share
    if given.api_key_env:
        options["api_key_env"] = given.api_key_env
    return options


async def _quietly(work: Coroutine[Any, Any, Any]) -> None:
    """Await work whose errors are shown by the engine's state."""
    try:
        await work
    except Exception as error:
        _log.debug("in the background of a magic: %r", error)


class _NotYet:
    pass


_NOT_YET: Final = _NotYet()


def _wait(engine: LinkedEngine, work: Coroutine[Any, Any, _T]) -> _T | Any:
    """Wait briefly for the engine; the work continues if it takes longer."""
    try:
        return engine.link.submit(work).result(_PATIENCE_S)
    except concurrent.futures.TimeoutError:
        return _NOT_YET
