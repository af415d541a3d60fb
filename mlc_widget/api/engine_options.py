"""The options of all engines, defined once; everything that makes an engine takes all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, TypedDict, TypeVar

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.keywords import unexpected_keyword
from mlc_widget.api.progress import InitProgressCallback

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Options = TypeVar("_Options", bound=Mapping[str, Any])

_MODEL_NAMES: Final = frozenset({"model", "model_id", "model_ids", "models"})


class EngineOptions(TypedDict, total=False):
    """The options of every engine, as keyword arguments of engines and factories.

    Attributes:
        device: The device to compute on, such as ``cpu``, ``cuda``, ``cuda:1`` or ``auto``;
            the same as ``runtime_options={"device": …}``. By default the runtime chooses.
        runtime: ``tvm``, ``mlc_llm``, or ``auto`` (the default) for the best one that is installed
            where the models run.
        runtime_options: Options of the runtime, such as ``threads``.
        init_progress_callback: Called with an `InitProgressReport` as a load advances.
    """

    device: str | None
    runtime: str
    runtime_options: Mapping[str, Any] | None
    init_progress_callback: InitProgressCallback | None


ENGINE_DEFAULTS: Final[EngineOptions] = {
    "device": None,
    "runtime": "auto",
    "runtime_options": None,
    "init_progress_callback": None,
}


def takes_options(options: type, defaults: Mapping[str, Any]) -> Callable[[_Function], _Function]:
    """Have a function's signature name the options that it takes as ``**options``.

    `help`, Tab, ``?`` and the API reference read the signature.

    Args:
        options: The `TypedDict` of the options.
        defaults: The default of each. If there are options without one, the signature keeps
            ``**options`` for them.
    """

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        annotations = options.__annotations__
        parameters, others = [], []
        for parameter in signature.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                others = [parameter] if annotations.keys() - defaults.keys() else []
            elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
                parameters.append(parameter)
        named = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults[name],
                annotation=getattr(annotation, "__forward_arg__", annotation),  # as written
            )
            for name, annotation in annotations.items()
            if name in defaults
        ]
        function.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*parameters, *named, *others]
        )
        return function

    return decorate


def complete_options(
    engine: type, factory: str, models: tuple[Any, ...], given: _Options, defaults: _Options
) -> _Options:
    """All options of an engine that is being made: those given, and defaults for the others.

    Args:
        engine: The engine's class.
        factory: How to make one with a model loaded, such as ``await create_mlc_engine``.
        models: The positional arguments.
        given: The keyword arguments.
        defaults: All options with their defaults.

    Raises:
        TypeError: There is a positional argument, or an option that does not exist.
    """
    name = engine.__name__
    by_name = [value for option, value in given.items() if option in _MODEL_NAMES]
    if misplaced := [*models, *by_name]:
        model = misplaced[0]
        raise TypeError(
            f"{name} takes no model: `{factory}({model!r})` makes an engine with a model loaded, "
            f"and `reload({model!r})` loads one into an engine made by `{name}()`."
        )
    for option in given:
        if option not in defaults:
            known = dict.fromkeys([*inspect.signature(engine).parameters, *defaults])
            raise unexpected_keyword(name, option, known)
    return {**defaults, **given}  # type: ignore[return-value]


def runtime_options_of(options: EngineOptions) -> dict[str, Any]:
    """The options for the runtime, with `device` among them.

    Raises:
        BadRequestError: The options are not a mapping, `device` is not text, or the two
            contradict each other.
    """
    given, device = options["runtime_options"], options["device"]
    if given is not None and not isinstance(given, Mapping):
        raise BadRequestError(
            f"runtime_options = {given!r}: must be a mapping, such as {{'threads': 4}}.",
            param="runtime_options",
        )
    merged = dict(given or {})
    if device is None:
        return merged
    if not isinstance(device, str) or not device.strip():
        raise BadRequestError(
            f"device = {device!r}: must be text such as 'cpu', 'cuda' or 'auto'.", param="device"
        )
    if merged.setdefault("device", device) != device:
        raise BadRequestError(
            f"device = {device!r} and runtime_options['device'] = {merged['device']!r}: they "
            "contradict each other; give one of them.",
            param="device",
        )
    return merged
