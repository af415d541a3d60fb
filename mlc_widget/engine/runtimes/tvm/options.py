"""The options of the tvm runtime."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.runtimes.tvm.speculation import SpeculativeMode
from mlc_widget.engine.store.verification import VerifyPolicy

MAX_CHUNK = 1024
MAX_SEQUENCES = 256

CPUS = ("portable", "avx2", "avxvnni", "avx512", "avx512vnni")
"""Kinds of x86-64 CPUs; each has the features of those before it (but avx512 lacks avxvnni)."""


@dataclass(frozen=True, slots=True)
class TVMOptions:
    """The options of the tvm runtime, by mlc_llm's names where it has them.

    Attributes:
        device: ``cpu``; ``cuda`` for the first NVIDIA GPU, ``cuda:1`` for the second and so on; or
            ``auto``, which is cuda if it can be used and otherwise cpu.
        threads: The number of CPU threads. None leaves one core free, and uses one thread for
            small models. On a machine of two cores, it computes steps of many sequences on both,
            while nothing else uses the other one.
        max_num_sequence: The number of generations that share steps; others wait.
        max_total_sequence_length: The number of tokens that the KV cache holds for all sequences
            together. None is four context windows, at most 8192.
        prefill_chunk_size: The maximum number of tokens of a step, 1 to 1024; a model, or a
            device (256 but for NVIDIA's Hopper), may have a lower maximum. None is 128, and 1024 on
            Hopper.
        prefix_cache_mode: ``radix`` reuses common prefixes of sequences, ``disable`` does not.
        speculative_mode: Whether to draft tokens from earlier in the text, and compute several in
            one step: ``auto``, where that saves time; ``always``, wherever the text repeats
            itself; or ``disable``. The answers are the same.
        cache_dir: The folder for compiled code and packed weights; None for ``$MLC_WIDGET_HOME`` or
            ``~/.cache/mlc_widget``.
        kv_cache_dtype: The dtype of keys and values in the cache, ``float16`` or ``float32``; None
            for that of the model's numerics.
        cpu: The kind of CPU to compile for (one of `CPUS`); None for this machine's.
        weight_cache_mode: ``auto`` keeps a copy of the weights in `cache_dir` as the kernels read
            them, within limits, so that later loads need only map it; ``disable`` neither makes nor
            uses such copies.
        verify: When to compare weights with their MD5 sums: ``once`` for each file, until it
            changes; ``always`` (or True), at each load, which then reads the files themselves;
            ``never`` (or False).
    """

    device: str = "cpu"
    threads: int | None = None
    max_num_sequence: int = 32
    max_total_sequence_length: int | None = None
    prefill_chunk_size: int | None = None
    prefix_cache_mode: str = "radix"
    speculative_mode: SpeculativeMode = "auto"
    cache_dir: Path | None = None
    kv_cache_dtype: str | None = None
    cpu: str | None = None
    weight_cache_mode: Literal["auto", "disable"] = "auto"
    verify: VerifyPolicy = "once"

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> TVMOptions:
        """Check `options`.

        Raises:
            BadRequestError: An option is unknown or has an invalid value; `param` names it.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for key in options:
            if key not in known:
                raise BadRequestError(
                    f"The tvm runtime has no option {key!r}; it has {', '.join(known)}.", param=key
                )
        values = {key: value for key, value in options.items() if value is not None}
        for key in ("threads", "max_num_sequence", "max_total_sequence_length"):
            _check_int(values, key, 1, 1 << 31)
        _check_int(values, "prefill_chunk_size", 1, MAX_CHUNK)
        if "threads" in values:
            _check_int(values, "threads", 1, 256)
        if "max_num_sequence" in values:
            _check_int(values, "max_num_sequence", 1, MAX_SEQUENCES)
        if not _is_device(values.get("device", "cpu")):
            raise BadRequestError(
                f"device is {values['device']!r}; it must be cpu, cuda, auto, or cuda: and the "
                "number of a GPU, such as cuda:1.",
                param="device",
            )
        _check_choice(values, "prefix_cache_mode", ("radix", "disable"))
        _check_choice(values, "speculative_mode", ("auto", "always", "disable"))
        _check_choice(values, "weight_cache_mode", ("auto", "disable"))
        _check_choice(values, "kv_cache_dtype", ("float16", "float32"))
        _check_choice(values, "cpu", CPUS)
        if isinstance(values.get("verify"), bool):
            values["verify"] = "always" if values["verify"] else "never"
        _check_choice(values, "verify", ("once", "always", "never"))
        if "cache_dir" in values:
            if not isinstance(values["cache_dir"], str | Path):
                raise BadRequestError(
                    f"cache_dir is {values['cache_dir']!r}; it must be a path.", param="cache_dir"
                )
            values["cache_dir"] = Path(values["cache_dir"]).expanduser()
        return cls(**values)


def _is_device(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"cpu|auto|cuda(:[0-9]{1,3})?", value))


def _check_int(values: Mapping[str, Any], key: str, low: int, high: int) -> None:
    value = values.get(key, low)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadRequestError(
            f"{key} is {value!r}; it must be an integer from {low} to {high}.", param=key
        )


def _check_choice(values: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> None:
    if values.get(key, choices[0]) not in choices:
        raise BadRequestError(
            f"{key} is {values[key]!r}; it must be one of {', '.join(choices)}.", param=key
        )
