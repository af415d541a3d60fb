"""The runtime's options, checked before mlc_llm gets them.

mlc_llm itself checks few of them: an unknown mode, for example, kills its background thread, and
its constructor then waits forever.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeAlias

from mlc_widget.api.errors import BadRequestError

MOCK_LIB: Final = "mock://echo"
"""Selects mlc_llm's mock engine, which needs no weights and answers with the prompt."""

_DEVICE = re.compile(r"auto|(cpu|cuda|rocm|metal|vulkan|opencl)(:\d{1,3})?")
_MODES: Final = ("local", "interactive", "server")
_Check: TypeAlias = Callable[[str, Any], Any]


def _bad(name: str, value: Any, remedy: str) -> BadRequestError:
    param = f"runtime_options.{name}"
    return BadRequestError(f"{param} = {value!r}: {remedy}", param=param)


def _one_of(*choices: Any) -> _Check:
    def check(name: str, value: Any) -> Any:
        if isinstance(value, bool) or value not in choices:
            raise _bad(name, value, f"give one of {', '.join(map(repr, choices))}.")
        return value

    return check


def _integer(low: int, *others: int) -> _Check:
    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _bad(name, value, "give an integer.")
        if not low <= value < 2**31 and value not in others:
            also = "".join(f" or {o}" for o in others)
            raise _bad(name, value, f"give an integer of at least {low}{also}.")
        return value

    return check


def _fraction(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise _bad(name, value, "give a number between 0 and 1.")
    return float(value)


def _seconds(name: str, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise _bad(name, value, "give a number of seconds greater than 0.")
    return float(value)


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _bad(name, value, "give True or False.")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _bad(name, value, "give a string that is not empty.")
    return value


def _device(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _DEVICE.fullmatch(value):
        raise _bad(name, value, "give auto, or a device such as cuda, cuda:1, rocm or metal.")
    return value


def _library(name: str, value: Any) -> str:
    if value == MOCK_LIB:
        return MOCK_LIB
    text = _text(name, str(value) if isinstance(value, Path) else value)
    path = Path(text).expanduser()
    if not path.is_file():
        raise _bad(
            name, value, "no such file; give a library made by `mlc_llm compile`, or leave it out."
        )
    return str(path.absolute())


def _additional_models(name: str, value: Any) -> list[tuple[str, str | None]]:
    if not isinstance(value, list | tuple):
        raise _bad(name, value, "give a list of model folders, or of (folder, library) pairs.")
    models: list[tuple[str, str | None]] = []
    for i, item in enumerate(value):
        at = f"{name}[{i}]"
        folder: Any = item
        library: str | None = None
        if isinstance(item, list | tuple) and len(item) == 2:
            folder, library = item[0], _library(f"{at}[1]", item[1])
        if not isinstance(folder, str | Path):
            raise _bad(at, item, "give a model folder, or a (folder, library) pair.")
        path = Path(folder).expanduser()
        if not (path / "mlc-chat-config.json").is_file():
            raise _bad(at, item, "there is no mlc-chat-config.json in this folder.")
        models.append((str(path.absolute()), library))
    return models


ENGINE_CONFIG: Final[Mapping[str, _Check]] = {
    "tensor_parallel_shards": _integer(1),
    "pipeline_parallel_stages": _integer(1),
    "opt": _text,
    "gpu_memory_utilization": _fraction,
    "kv_cache_page_size": _one_of(16),
    "max_num_sequence": _integer(1),
    "max_total_sequence_length": _integer(1),
    "max_single_sequence_length": _integer(1),
    "prefill_chunk_size": _integer(1),
    "sliding_window_size": _integer(1, -1),
    "attention_sink_size": _integer(0, -1),
    "max_history_size": _integer(0),
    "kv_state_kind": _one_of("kv_cache", "rnn_state"),
    "speculative_mode": _one_of("disable", "small_draft", "eagle", "medusa"),
    "spec_draft_length": _integer(0),
    "spec_tree_width": _integer(1),
    "prefix_cache_mode": _one_of("disable", "radix"),
    "prefix_cache_max_num_recycling_seqs": _integer(0, -1),
    "prefill_mode": _one_of("chunked", "hybrid"),
    "additional_models": _additional_models,
    "verbose": _boolean,
}
"""The fields of mlc_llm's `EngineConfig` that may be given in `engine_config`; the others are
options of their own."""


def _engine_config(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _bad(name, value, "give a mapping of EngineConfig's fields.")
    checked = {}
    for key, item in value.items():
        at = f"{name}.{key}"
        if key in ("model", "model_lib", "mode"):
            raise _bad(at, item, f"give it outside engine_config ({key}).")
        if key not in ENGINE_CONFIG:
            raise _bad(at, item, f"no such field; known: {', '.join(ENGINE_CONFIG)}.")
        if item is not None:
            checked[key] = ENGINE_CONFIG[key](at, item)
    return checked


@dataclass(frozen=True, slots=True)
class MLCLLMOptions:
    """The `runtime_options` of ``runtime="mlc_llm"``.

    Attributes:
        device: ``auto``, or a device such as ``cuda``, ``cuda:1``, ``rocm``, ``metal``, ``vulkan``.
        mode: ``local`` (few requests at once, little memory), ``interactive`` (one at a time) or
            ``server`` (as many as the memory allows).
        model_lib: A compiled library; without it the model is compiled once and cached, as
            mlc_llm's MLC_JIT_POLICY and MLC_LLM_HOME say. ``mock://echo`` needs no weights.
        engine_config: Fields of mlc_llm's `EngineConfig`, such as ``tensor_parallel_shards``.
        load_timeout: Seconds after which a load fails.
        stall_timeout: Seconds without any sign of life after which a load or a running request
            counts as hung.
    """

    device: str = "auto"
    mode: str = "local"
    model_lib: str | None = None
    engine_config: Mapping[str, Any] = field(default_factory=dict)
    load_timeout: float = 3600.0
    stall_timeout: float = 120.0

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> MLCLLMOptions:
        """Check options as they were received; None means that an option is not given.

        Raises:
            BadRequestError: An option is unknown or its value invalid; the message names both
                and says what to do.
        """
        checks: dict[str, _Check] = {
            "device": _device,
            "mode": _one_of(*_MODES),
            "model_lib": _library,
            "engine_config": _engine_config,
            "load_timeout": _seconds,
            "stall_timeout": _seconds,
        }
        known = [f.name for f in fields(cls)]
        for name, value in options.items():
            if name not in known:
                raise _bad(name, value, f"no such option; known: {', '.join(known)}.")
        given = {k: checks[k](k, v) for k, v in options.items() if v is not None}
        return cls(**given)

    @property
    def is_mock(self) -> bool:
        """Whether the mock engine is selected, which needs no weights."""
        return self.model_lib == MOCK_LIB
