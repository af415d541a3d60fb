"""Makes a model's plan, and its program if needed, from its configuration and options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from mlc_widget.api.errors import RuntimeUnavailableError
from mlc_widget.engine.runtimes.base import ModelSource
from mlc_widget.engine.runtimes.tvm.architectures import Architecture, architecture_of
from mlc_widget.engine.runtimes.tvm.compiled import code_key
from mlc_widget.engine.runtimes.tvm.cuda.compiler import importing_tvm
from mlc_widget.engine.runtimes.tvm.executor import Executor
from mlc_widget.engine.runtimes.tvm.numerics import numerics_of
from mlc_widget.engine.runtimes.tvm.options import TVMOptions
from mlc_widget.engine.runtimes.tvm.plan import Plan, PlanCache
from mlc_widget.engine.runtimes.tvm.quantization import Quantization, quantization_of
from mlc_widget.engine.store.families import common_config
from mlc_widget.engine.store.fields import Fields
from mlc_widget.engine.store.weight_source import WeightSource

if TYPE_CHECKING:
    from mlc_widget.engine.runtimes.tvm.compile import Program
    from mlc_widget.engine.runtimes.tvm.cuda.target import CudaTarget
    from mlc_widget.engine.runtimes.tvm.target import CpuTarget

    Target = CpuTarget | CudaTarget


class ModelPlanner:
    """Makes the plan of a model, and its program if needed, for which it imports TVM's compiler.

    Args:
        source: The model.
        options: The caller's options.
        device: The result of `device_of`.
        target: The target for which to compile, if not the one of `options` and this machine.
        weights: The model's weights, whose tensors may have several types.

    Attributes:
        executor: The class that runs the model's code; set once there is a plan.
        device: The device that it runs on, such as ``cpu`` or ``cuda:0``; set once there is a plan.
    """

    task: ClassVar[str] = "text"
    """The kind of program in cache keys, as a model may have programs of several kinds."""

    def __init__(
        self,
        source: ModelSource,
        options: TVMOptions,
        device: str,
        target: Target | None,
        weights: WeightSource,
    ) -> None:
        self._weights = weights
        self._source, self._options, self._device, self._target = source, options, device, target
        self._made: Program | None = None
        self.executor: type[Executor] = Executor
        self.device = "cpu"

    def plan(self) -> Plan:
        """Get the plan from the cache, or make it from the program.

        Raises:
            MLCEngineError: The model is not supported.
        """
        source, options = self._source, self._options
        if self._target is not None:
            with importing_tvm():
                return self._make_plan()
        gpu = _gpu(self._device, options)
        self.executor, self.device = _executor_class(None if gpu is None else gpu[1])
        cache = PlanCache(
            {
                "task": self.task,
                "model_type": source.config.get("model_type"),
                "model_config": model_config(source),
                "quantization": source.config.get("quantization"),
                "numerics": source.config.get("numerics"),
                "kv_dtype": options.kv_cache_dtype,
                "cpu": options.cpu,
                "gpu": gpu,
                "tensor_types": self._weights.tensor_types(),
            },
            options.cache_dir,
        )
        plan = cache.load()
        if plan is None:
            with importing_tvm():
                plan = self._make_plan()
            cache.store(plan)
        return plan

    def program(self) -> Program:
        """Make the program, to be compiled."""
        if self._made is None:
            with importing_tvm():
                self._make_plan()
        assert self._made is not None
        return self._made

    def _architecture(self) -> Architecture:
        return architecture_of(self._source.config.get("model_type"), model_config(self._source))

    def _program(
        self, architecture: Any, quantization: Quantization, target: Target, kv_dtype: str
    ) -> Program:
        from mlc_widget.engine.runtimes.tvm.compile import make_program

        return make_program(architecture, quantization, target, kv_dtype, self._weights)

    def _make_plan(self) -> Plan:
        from mlc_widget.engine.runtimes.tvm.target import CpuTarget

        config = Fields(self._source.config, "")
        quantization = quantization_of(config.get("quantization"))
        numerics = numerics_of(self._source.config, self._options.kv_cache_dtype)
        architecture = self._architecture()
        target = self._target or _target(self._device, self._options)
        if isinstance(target, CpuTarget):
            target = dataclasses.replace(target, isa=numerics.isa(target.isa))
        index = None if isinstance(target, CpuTarget) else target.index
        self.executor, self.device = _executor_class(index)
        program = self._program(architecture, quantization, target, numerics.kv_dtype)
        self._made = program
        return Plan(
            architecture.shape,
            program.parameters,
            *_attention_tiles(program, quantization),
            target.isa.tile_rows if isinstance(target, CpuTarget) else 0,
            program.max_rows,
            program.usual_rows,
            program.widest,
            code_key(program, quantization, architecture),
        )


def device_of(options: TVMOptions) -> str:
    """The device to use: ``cpu``, ``auto``, or ``cuda`` with or without a number.

    To be called before TVM is imported.

    Raises:
        RuntimeUnavailableError: The user chose the GPU, but something that it needs is missing.
    """
    from mlc_widget.engine.runtimes.tvm.cuda import target as cuda

    if options.device == "cpu" or (options.device == "auto" and not cuda.is_there()):
        return "cpu"
    try:
        cuda.prepare()
    except RuntimeUnavailableError:
        if options.device != "auto":
            raise
        return "cpu"
    return options.device


def _gpu(device: str, options: TVMOptions) -> tuple[str, int] | None:
    """The architecture and number of the GPU that a device of `device_of` is; None for the CPU.

    TVM compiles a model's CUDA source when its kernels are first called, so `install` is needed
    for models from the cache, too.
    """
    if device == "cpu":
        return None
    from mlc_widget.engine.runtimes.tvm.cuda.compiler import install
    from mlc_widget.engine.runtimes.tvm.cuda.device import arch_of, index_of

    index = index_of(device)
    try:
        arch = arch_of(index)
    except RuntimeUnavailableError:
        if device != "auto":
            raise
        return None
    install(arch, options.cache_dir)
    return arch, index


def _target(device: str, options: TVMOptions) -> Target:
    """The target of this machine."""
    gpu = _gpu(device, options)
    if gpu is None:
        from mlc_widget.engine.runtimes.tvm.target import host_target

        return host_target(options.cpu)
    from mlc_widget.engine.runtimes.tvm.cuda.target import local_target

    return local_target(gpu[1])


def _executor_class(gpu: int | None) -> tuple[type[Executor], str]:
    """The class that runs code on a GPU, by its number, or the CPU, and the device's name."""
    if gpu is None:
        return Executor, "cpu"
    from mlc_widget.engine.runtimes.tvm.cuda.executor import CudaExecutor

    return CudaExecutor, f"cuda:{gpu}"


def _attention_tiles(program: Program, quantization: Quantization) -> tuple[int, int]:
    """The maximum number of rows of an attention tile, and the number of keys of a part."""
    from mlc_widget.engine.runtimes.tvm.target import CpuTarget

    shape = program.shape
    if isinstance(program.target, CpuTarget):
        return program.target.isa.attention_rows(shape.query_heads // shape.kv_heads), 0
    from mlc_widget.engine.runtimes.tvm.cuda.tensor_layers import attention_part, attention_rows

    chosen = (quantization, program.kv_dtype, program.target, shape)
    return attention_rows(*chosen), attention_part(*chosen)


def model_config(source: ModelSource) -> Mapping[str, Any]:
    """`model_config`, with the values that mlc-chat-config.json or overrides have outside of it."""
    values = Fields(source.config, "").get("model_config")
    if not isinstance(values, Mapping):
        return values  # type: ignore[no-any-return]
    values = common_config(values)
    above = source.config.get("sliding_window_size")
    return values if above is None else {**values, "sliding_window_size": above}
