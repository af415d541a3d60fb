"""The public API: what `mlc_widget` exports, no more and no less."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mlc_widget
from mlc_widget.api import errors

ROOT = Path(mlc_widget.__file__).parent

PUBLIC = {
    # engines, and their factories
    "AsyncKernelMLCEngine",
    "AsyncMLCEngine",
    "AsyncServerMLCEngine",
    "ServerMLCEngine",
    "ServerOptions",
    "KernelMLCEngine",
    "MLCEngine",
    "create_kernel_mlc_engine",
    "create_mlc_engine",
    "kernel_mlc_engine",
    "mlc_engine",
    "EngineOptions",
    "WorkerOptions",
    # what engines have in common
    "AsyncMLCEngineInterface",
    "MLCEngineInterface",
    "EngineLink",
    "EngineSnapshot",
    "FailedLoad",
    "Hang",
    # what they give and take
    "AsyncStream",
    "EngineLogRecord",
    "EngineMetrics",
    "EngineServer",
    "EngineStatistics",
    "Evaluation",
    "InitProgressReport",
    "LogitProcessor",
    "MapReport",
    "MapRow",
    "ResumableSession",
    "ResumeResult",
    "Stream",
    # servers of tools
    "MCPServer",
    "mcp",
    # errors
    "BadRequestError",
    "ContextLengthExceededError",
    "EngineDeadError",
    "EngineForkedError",
    "EngineTerminatedError",
    "InsufficientMemoryError",
    "InternalEngineError",
    "LoadCancelledError",
    "MCPServerError",
    "MLCEngineError",
    "ModelDownloadError",
    "ModelError",
    "ModelFormatError",
    "ModelNotFoundError",
    "ModelNotLoadedError",
    "ProtocolError",
    "RuntimeUnavailableError",
    "ServerError",
    "UnsupportedFieldError",
    "UnsupportedModelError",
    "WorkerStartError",
    # the notebook
    "ChatWidget",
    "CompareWidget",
    "LoadProgress",
    "Reply",
    "load_ipython_extension",
    "unload_ipython_extension",
    # the worker
    "KernelMLCEngineHandler",
    "__version__",
}


def test_the_public_names_are_these() -> None:
    assert set(mlc_widget.__all__) == PUBLIC
    assert len(mlc_widget.__all__) == len(PUBLIC)
    assert {n for n in dir(mlc_widget) if not n.startswith("__")} == {
        n for n in PUBLIC if not n.startswith("__")
    }


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_a_public_name_is_there_and_explained(name: str) -> None:
    value = getattr(mlc_widget, name)
    assert value.__name__ == name
    assert (inspect.getdoc(value) or "").strip(), "it has no docstring"


def test_type_checkers_see_the_same_names() -> None:
    module = ast.parse((ROOT / "__init__.py").read_text())
    seen = {
        alias.name: statement.module
        for block in module.body
        if isinstance(block, ast.If)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert seen == mlc_widget._HOMES
    assert seen.keys() | {"__version__"} == PUBLIC


def test_every_error_is_public() -> None:
    tree = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.MLCEngineError)
    }
    assert tree <= PUBLIC


def test_a_star_import_gives_them_all() -> None:
    code = "from mlc_widget import *; print(*(n for n in globals() if n[:2] != '__'))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(ran.stdout.split()) == PUBLIC - {"__version__"}


def _private_reaches(path: Path) -> Iterator[str]:
    """Places that use `x._core` where x is not the object itself."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr == "_core":
            owner = node.value
            if not (isinstance(owner, ast.Name) and owner.id == "self"):
                yield f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("package", ["magics", "widget", "cli", "mcp_client", "."])
def test_nothing_of_ours_reaches_into_an_engine(package: str) -> None:
    paths = (ROOT / package).glob("*.py")
    assert [place for path in paths for place in _private_reaches(path)] == []


def _methods(interface: type) -> dict[str, inspect.Signature]:
    public = inspect.getmembers(interface, inspect.isfunction)
    return {name: inspect.signature(f) for name, f in public if not name.startswith("_")}


def test_both_interfaces_have_the_same_methods_and_parameters() -> None:
    awaited = _methods(mlc_widget.AsyncMLCEngineInterface)
    blocking = _methods(mlc_widget.MLCEngineInterface)
    assert awaited.keys() == blocking.keys()
    assert "reload" in awaited
    for name, signature in awaited.items():
        assert signature.parameters == blocking[name].parameters, name


ENGINES = sorted(name for name in PUBLIC if name.endswith("MLCEngine"))


@pytest.mark.parametrize("engine", ENGINES)
def test_no_engine_declares_the_interface_again(engine: str) -> None:
    cls = getattr(mlc_widget, engine)
    interface = next(c for c in cls.__mro__ if c.__name__.endswith("MLCEngineInterface"))
    below = cls.__mro__[: cls.__mro__.index(interface)]
    again = {name for c in below for name in vars(c) if name in _methods(interface)}
    # A server may have only one model, so there a name need not be given.
    assert again == ({"reload"} if "Server" in engine else set())


def _engine(name: str) -> Any:
    args = ("http://127.0.0.1:9/v1",) if "Server" in name else ()
    return getattr(mlc_widget, name)(*args)


@pytest.mark.parametrize("engine", ENGINES)
async def test_close_ends_an_engine_as_a_with_block_does(engine: str) -> None:
    closed, left = _engine(engine), _engine(engine)
    if engine.startswith("Async"):
        await closed.close()
        await closed.close()
        async with left as entered:
            assert entered is left
    else:
        closed.close()
        closed.close()
        with left as entered:
            assert entered is left
    for ended in (closed, left):
        with pytest.raises(mlc_widget.EngineTerminatedError):
            answer = ended.reload("demo")
            await answer
