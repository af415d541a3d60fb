"""The command's entry point: parses arguments, runs a subcommand, and says what went wrong."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, Protocol

from mlc_widget._version import __version__
from mlc_widget.api.errors import BadRequestError, MLCEngineError
from mlc_widget.cli import cache, convert, mcp_server, models, serve, workers


class Command(Protocol):
    """A module of this package with a subcommand.

    It imports what is heavy when the command runs; where that fails, it raises an `MLCEngineError`.
    """

    def add_to(self, commands: Any) -> None:
        """Add a parser to `commands`; its default ``run`` is what is called with the arguments."""


_UNWRITTEN: Final = (errno.EPIPE, errno.ENOSPC, errno.EIO)
COMMANDS: Final[tuple[Command, ...]] = (serve, mcp_server, workers, convert, models, cache)


def parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    made = argparse.ArgumentParser(
        prog="mlc_widget", description="Models for mlc_widget: local LLMs in Jupyter."
    )
    made.add_argument("--version", action="version", version=f"mlc_widget {__version__}")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: Those after the command's name; None for this process's.

    Returns:
        The exit status: 0, 1 after an error, 2 after a wrong argument, 130 after Ctrl+C.
    """
    options = parser().parse_args(arguments)
    try:
        options.run(options)
        if sys.stdout is not None:  # it is, if it was closed at the start
            sys.stdout.flush()
    except MLCEngineError as error:
        print(f"mlc_widget: {error.message}", file=sys.stderr)
        return 2 if isinstance(error, BadRequestError) else 1
    except KeyboardInterrupt:
        print("mlc_widget: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in _UNWRITTEN:
            raise
        with contextlib.suppress(
            OSError, AttributeError
        ):  # what is left in buffers must not fail at exit, too
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:  # `mlc_widget … | head` has read enough
            print(f"mlc_widget: cannot write: {error.strerror}.", file=sys.stderr)
        return 1
    return 0
