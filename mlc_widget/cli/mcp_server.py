"""``mlc_widget mcp``: a server of the Model Context Protocol, over which agents use a model."""

from __future__ import annotations

import argparse
import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from mlc_widget.api.errors import BadRequestError, MLCEngineError, RuntimeUnavailableError

if TYPE_CHECKING:
    from mlc_widget.cli.model_tools import ModelTools

_INSTRUCTIONS: Final = (
    "A language model on this machine: private, free and small. Give it short, clear tasks; it is "
    "good at labelling and extracting, and knows little."
)


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "mcp",
        help="let agents use a model, over the Model Context Protocol",
        description="Load a model and offer the tools chat, label and extract over standard input "
        "and output, until the input ends. Name this command in an agent's configuration, as the "
        "command of an MCP server.",
    )
    parser.add_argument("model", help="a model, such as demo, a .gguf file or HF://user/repo")
    parser.add_argument("--device", help="such as cpu, cuda or auto")
    parser.add_argument("--runtime", default="auto", help="tvm, mlc_llm or auto")
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=1024,
        metavar="N",
        help="the longest reply, in tokens (default: 1024)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Serve until standard input ends."""
    if options.max_tokens < 1:
        raise BadRequestError(f"max-tokens = {options.max_tokens}: give 1 or more.")
    asyncio.run(_serve(options))


async def _serve(options: argparse.Namespace) -> None:
    from mlc_widget.cli.model_tools import ModelTools
    from mlc_widget.factories import create_kernel_mlc_engine

    tools = ModelTools(
        create_kernel_mlc_engine(
            options.model, show_progress=False, runtime=options.runtime, device=options.device
        ),
        options.max_tokens,
    )
    try:
        await server_of(tools).run_stdio_async()
    finally:
        await tools.close()


def server_of(tools: ModelTools) -> Any:
    """The server, of the package mcp, that offers the tools.

    Raises:
        RuntimeUnavailableError: The package is not installed.
    """
    try:
        from mcp.server.mcpserver import MCPServer
    except ImportError:
        raise RuntimeUnavailableError(
            'The command needs the package mcp, version 2: pip install "mlc-widget[mcp]"'
        ) from None
    server: Any = MCPServer("mlc_widget", instructions=_INSTRUCTIONS, log_level="WARNING")
    for tool in (tools.chat, tools.label, tools.extract):
        server.tool()(_telling(tool))
    return server


def _telling(tool: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """The tool, whose errors reach the agent; others would only be logged."""
    from mcp.server.mcpserver.exceptions import ToolError

    @functools.wraps(tool)
    async def call(*args: Any, **named: Any) -> Any:
        try:
            return await tool(*args, **named)
        except MLCEngineError as error:
            raise ToolError(error.message) from None

    return call
