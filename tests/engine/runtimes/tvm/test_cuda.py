"""device="cuda": what can be checked without a GPU, and the golden logits with one."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlc_widget.api.errors import (
    BadRequestError,
    InsufficientMemoryError,
    RuntimeUnavailableError,
)
from mlc_widget.engine.runtimes.base import DeviceUsage
from mlc_widget.engine.runtimes.tvm import compile as compiling
from mlc_widget.engine.runtimes.tvm import packed
from mlc_widget.engine.runtimes.tvm.cuda import device, fragments, pool, tensors, toolkit
from mlc_widget.engine.runtimes.tvm.cuda import target as cuda
from mlc_widget.engine.runtimes.tvm.cuda.compiler import _cached, compile_with_nvrtc, install
from mlc_widget.engine.runtimes.tvm.cuda.decode import MOST_ROWS, is_decode
from mlc_widget.engine.runtimes.tvm.cuda.upload import upload
from mlc_widget.engine.runtimes.tvm.options import TVMOptions
from mlc_widget.engine.runtimes.tvm.plan import Plan
from mlc_widget.engine.runtimes.tvm.planning import ModelPlanner
from mlc_widget.engine.runtimes.tvm.quantization import quantization_of, zero_code
from mlc_widget.engine.runtimes.tvm.runtime import TVMRuntime
from mlc_widget.engine.runtimes.tvm.step_inputs import Span
from mlc_widget.engine.store import packed_weights
from mlc_widget.engine.store.user_cache import UserCache

from .conftest import (
    GOLDEN,
    ROOT,
    Reports,
    Stepper,
    collect,
    executor_for,
    greedy,
    ids_of,
    needs_gpu,
    run_chunks,
    source_of,
    text_of,
)
from .test_architectures import CHUNKS, FIXTURES, NAMES, data, folder_of  # noqa: F401

NAME = "gqa-tied-q0f32"
no_gpu = pytest.mark.skipif(cuda.is_there(), reason="this machine has an NVIDIA GPU")


@no_gpu
async def test_without_a_driver_the_error_says_so(cache_dir):
    runtime = TVMRuntime({"device": "cuda", "cache_dir": cache_dir})
    with pytest.raises(RuntimeUnavailableError, match=r"driver.*libcuda.*device='cpu'"):
        await runtime.load(source_of(GOLDEN / NAME), Reports())


@no_gpu
async def test_auto_takes_the_cpu(cache_dir):
    runtime = TVMRuntime({"device": "auto", "cache_dir": cache_dir})
    name = "gqa-tied-q4f32_1"  # which other tests compile for the CPU
    await runtime.load(source_of(GOLDEN / name), Reports())
    try:
        events = await collect(runtime, [5, 6, 7], greedy(max_tokens=4))
        assert sum(len(e.token_ids) for e in events) == 4
    finally:
        await runtime.unload()


@pytest.mark.parametrize(
    ("loads", "modules", "headers", "missing"),
    [
        ({"libcuda.so.1"}, True, True, "libcudart.so.13"),
        ({"libcuda.so.1", "libcudart.so.13"}, False, True, "cuda.bindings.nvrtc"),
        ({"libcuda.so.1", "libcudart.so.13"}, True, False, "headers"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_brings_it(
    monkeypatch, loads, modules, headers, missing
):
    monkeypatch.setattr(toolkit, "_load", lambda name, *others: object() if name in loads else None)
    monkeypatch.setattr(cuda, "_has", lambda module: modules)
    monkeypatch.setattr(toolkit, "find_headers", lambda: headers)
    with pytest.raises(RuntimeUnavailableError, match=missing) as caught:
        cuda.prepare()
    assert cuda.INSTALL in str(caught.value)


def traced():
    """One quantization for each architecture; `make test` has a family in test_families.py."""
    for name, quantization in zip(NAMES, ["q0f16", "q0f32", "q4f16_1", "q8f16_1"], strict=True):
        yield pytest.param(name, quantization, id=f"{name}-{quantization}")


@pytest.mark.soak
@pytest.mark.parametrize(("name", "quantization"), list(traced()))
def test_every_architecture_is_traced(name, quantization):
    from mlc_widget.engine.runtimes.tvm.architectures import architecture_of
    from mlc_widget.engine.runtimes.tvm.compile import make_program, trace

    config = json.loads((FIXTURES / name / "mlc-chat-config.json").read_text())
    architecture = architecture_of(config["model_type"], config["model_config"])
    there = cuda.CudaTarget("sm_90", "x86_64-unknown-linux-gnu", "x86-64")
    program = make_program(architecture, quantization_of(quantization), there, "float16")
    module = trace(program)
    names = {v.name_hint for v in module.get_global_vars()}
    assert "forward" in names
    assert any("matmul" in n for n in names)


@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90"])
def test_kernels_compile_without_a_gpu(arch, tmp_path):
    """To machine code, by NVIDIA's compiler, where that is installed."""
    pytest.importorskip("cuda.bindings.nvrtc")
    if not toolkit.find_headers():
        pytest.skip("needs CUDA's headers")
    from mlc_widget.engine.runtimes.tvm.architectures import architecture_of
    from mlc_widget.engine.runtimes.tvm.compile import compile_module, make_program, trace
    from mlc_widget.engine.runtimes.tvm.target import host_target

    config = json.loads((FIXTURES / "qwen3" / "mlc-chat-config.json").read_text())
    architecture = architecture_of(config["model_type"], config["model_config"])
    host = host_target()
    there = cuda.CudaTarget(arch, host.triple, host.cpu)
    program = make_program(architecture, quantization_of("q4f16_1"), there, "float16")
    install(arch, tmp_path)
    compiled = compile_module(trace(program), there)
    (source,) = (m.inspect_source() for i in compiled.mod.imports for m in i.imports)
    assert ("mma.sync" in source) == (arch != "sm_75")
    assert ("wgmma" in source) == (arch == "sm_90")
    assert ("__launch_bounds__(544, 1)" in source) == (arch == "sm_90")  # blocks together
    assert compile_with_nvrtc(source, arch).startswith(b"\x7fELF")


LATE = """
import sys
from pathlib import Path
from mlc_widget.engine.runtimes.tvm import machine
from mlc_widget.engine.runtimes.tvm.cuda import compiler
machine.start()
compiler.compile_with_nvrtc = lambda code, arch: f"{arch} {code}".encode()
compiler.version = lambda name: "1"
compiler.install("sm_90", Path(sys.argv[1]))
with compiler.importing_tvm():
    import tvm
import tvm_ffi
print(bytes(tvm_ffi.get_global_func("tvm_callback_cuda_compile")("source")).decode())
"""


def test_tvm_can_be_imported_after_our_function_that_compiles_is_installed(tmp_path):
    command = [sys.executable, "-c", LATE, str(tmp_path)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout.split() == ["sm_90", "source"]


def test_a_damaged_file_of_the_compile_cache_is_made_again(tmp_path):
    cache, name = UserCache("cuda", tmp_path), "a.cubin"
    assert _cached(cache, name, lambda: b"first") == b"first"
    assert _cached(cache, name, lambda: b"second") == b"first"
    file = cache.folder / name
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert _cached(cache, name, lambda: b"third") == b"third"
    assert _cached(cache, name, lambda: b"fourth") == b"third"
    cache.folder.chmod(0o777)
    assert _cached(cache, name, lambda: b"fifth") == b"fifth"


def operand(words, scales, bits):
    """A tile and step, (16, 64), as `intrinsics.mma` and the decoders understand it."""
    a = np.zeros((16, 64), np.float32)
    for lane in range(32):
        g, j = divmod(lane, 4)
        for h in range(2):
            for q in range(2):
                for place in range(8):  # of the 8 values of a lane's 4 words
                    word, second = divmod(place, 2)
                    row, k = g + word % 2 * 8, 32 * h + 8 * j + 4 * q + word // 2 * 2 + second
                    if bits == 16:
                        a[row, k] = words[2 * h + q, lane, place]
                        continue
                    if bits == 4:
                        code = int(words[0, lane, 2 * h + q]) >> 4 * (word + 4 * second) & 15
                    else:
                        pair = int(words[h, lane, 2 * q + word % 2])
                        code = pair >> 8 * (word // 2 * 2 + second) & 255
                    a[row, k] = (code - zero_code(bits)) * float(scales[g, 2 * h + word % 2])
    return a


@pytest.mark.parametrize(
    ("bits", "transposed"), [(4, False), (4, True), (8, False), (8, True), (16, False)]
)
def test_weights_lie_as_tensor_cores_take_them(bits, transposed):
    inputs, outputs, steps = 96, (40, 24), 2
    rng = np.random.default_rng(bits)
    places = np.r_[0:40, 64:88]  # of the outputs, each part padded to 32
    wanted = np.zeros((96, 64 * steps), np.float32)

    def pack(layout, source):
        assert source.shape == (layout.source_shape[::-1] if transposed else layout.source_shape)
        out = np.zeros(layout.shape, layout.dtype)
        layout.pack(source.T if transposed else source, out)
        return out

    if bits == 16:
        source = rng.standard_normal((64, inputs)).astype(np.float16)
        wanted[places, :inputs] = source
        words = pack(fragments.Floats(inputs, outputs), source)
        scales = np.zeros((6, steps, 8, 4))
    else:
        codes = rng.integers(0, 1 << bits, (64, inputs), dtype=np.uint32)
        scale = rng.standard_normal((64, inputs // 32)).astype(np.float16)
        wanted[places, :inputs] = (codes.astype(np.float32) - zero_code(bits)) * np.repeat(
            scale, 32, axis=1
        )
        each = 32 // bits
        shifts = np.arange(each, dtype=np.uint32) * np.uint32(bits)
        packed = (codes.reshape(64, -1, each) << shifts).sum(axis=2, dtype=np.uint32)
        kind = fragments.Codes4 if bits == 4 else fragments.Codes8
        words = pack(kind(inputs, outputs, transposed=transposed), packed)
        scales = pack(fragments.Scales(inputs, outputs, transposed=transposed), scale)
    for tile in range(6):
        for step in range(steps):
            got = operand(words[tile, step], scales[tile, step], bits)
            rows, columns = slice(16 * tile, 16 * tile + 16), slice(64 * step, 64 * step + 64)
            np.testing.assert_array_equal(got, wanted[rows, columns])


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda", "cuda:0", "cuda:12"])
def test_a_device_is_named_as_elsewhere(device):
    assert TVMOptions.parse({"device": device}).device == device


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:-1", "cuda:a", "cuda:0 ", "cpu:0", 0])
def test_other_devices_are_refused(device):
    with pytest.raises(BadRequestError, match="cuda:1") as caught:
        TVMOptions.parse({"device": device})
    assert caught.value.param == "device"


def cards(count):
    """Stands for what TVM says on a machine with some GPUs, by the numbers of attributes."""
    said = {4: "7.5", 5: "NVIDIA T4", 14: 16 << 30, 15: 15 << 30}
    return lambda index, number: said.get(number, int(index < count))


@pytest.mark.parametrize(("count", "sees"), [(1, "1 GPU, cuda:0"), (2, "2 GPUs, cuda:0 to cuda:1")])
def test_a_gpu_that_is_not_there_is_refused(monkeypatch, count, sees):
    monkeypatch.setattr(device, "_attribute", cards(count))
    assert cuda.local_target(count - 1).index == count - 1
    with pytest.raises(RuntimeUnavailableError, match=f"'cuda:3'.*{sees}"):
        cuda.local_target(3)


def test_a_gpu_tells_its_name_and_memory(monkeypatch):
    monkeypatch.setattr(device, "_attribute", cards(2))
    assert device.usage(1, 5) == DeviceUsage("cuda:1", "NVIDIA T4", 16 << 30, 15 << 30, 5)
    assert [device.index_of(name) for name in ("cuda", "cuda:0", "cuda:12", "auto")] == [
        0,
        0,
        12,
        0,
    ]


@no_gpu
def test_tvm_says_that_there_is_no_gpu():
    with pytest.raises(RuntimeUnavailableError, match=r"no CUDA device.*device='cpu'"):
        device.arch_of(0)


def test_tensors_need_no_compiler():
    """In the host's memory, as the functions are the same."""
    import tvm_ffi

    here = tvm_ffi.device("cpu", 0)
    array = np.arange(24, dtype=np.float16).reshape(4, 6)
    tensor = tensors.copy_of(array, here)
    part = tensors.view(tensor, (2, 3), 12)
    assert np.array_equal(np.from_dlpack(part), array.reshape(-1)[6:12].reshape(2, 3))
    tensors.copy(part, tensors.view(tensor, (2, 3)))
    assert np.array_equal(np.from_dlpack(tensor).reshape(-1)[:6], array.reshape(-1)[6:12])


def test_an_argument_begins_at_its_own_address_and_keeps_its_memory():
    import tvm_ffi

    memory = tensors.copy_of(np.arange(256, dtype=np.int32), tvm_ffi.device("cpu", 0))
    start = memory.data_ptr()
    argument = tensors.argument(memory, (4, 2), 256)
    del memory
    assert argument.data_ptr() == start + 256
    part = tensors.view(argument, (3, 2))
    assert part.data_ptr() == start + 256
    assert np.from_dlpack(part).tolist() == [[64, 65], [66, 67], [68, 69]]


@pytest.mark.parametrize(("name", "quantization"), [("llama", "q4f16_1"), ("qwen2", "q8f16_1")])
def test_a_plan_for_a_gpu_is_the_same_from_the_cache(name, quantization, folder_of, cache_dir):  # noqa: F811
    source = source_of(folder_of(name, quantization), numerics="fast")
    there = cuda.CudaTarget("sm_90", "x86_64-unknown-linux-gnu", "x86-64")
    options = TVMOptions.parse({"cache_dir": cache_dir})
    plan = ModelPlanner(source, options, "cuda", there, source.open_weights()).plan()
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again.shape == plan.shape
    assert [n for n, _ in again.parameters] == [n for n, _ in plan.parameters]
    for (_, one), (_, other) in zip(again.parameters, plan.parameters, strict=True):
        assert type(one) is type(other)
        assert one.record() == other.record()
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


LOAD = """
import json, sys, threading
from functools import partial
from pathlib import Path
from mlc_widget.engine.runtimes.base import ModelSource
from mlc_widget.engine.runtimes.tvm.step_inputs import Span
from mlc_widget.engine.runtimes.tvm.loading import Progress, make_executor
from mlc_widget.engine.runtimes.tvm.options import TVMOptions
from mlc_widget.engine.runtimes.tvm.plan import Plan
from mlc_widget.engine.runtimes.tvm.planning import ModelPlanner
from mlc_widget.engine.store.tensor_cache import TensorCache
folder, cache_dir = map(Path, sys.argv[1:])
config = json.loads((folder / "mlc-chat-config.json").read_text())
config["numerics"] = "faithful"
weights = partial(TensorCache.from_folder, folder)
source = ModelSource(folder.name, folder, config, None, weights)
options = TVMOptions.parse(
    {"device": "cuda", "kv_cache_dtype": "float16", "cache_dir": cache_dir}
)
progress = Progress(lambda *a, **k: None, threading.Event())
executor, _ = make_executor(source, options, progress)
executor.prepare()
best = executor.run([Span([5, 6], 0, [0], [1], 0.0)])[0]
print(best.token, executor.usage().device, "tvm" in sys.modules, "torch" in sys.modules)
"""


@needs_gpu
def test_a_second_process_needs_no_compiler_on_a_gpu(folder_of, tmp_path):  # noqa: F811
    command = [sys.executable, "-c", LOAD, str(folder_of("llama", "q4f16_1")), str(tmp_path)]
    first, second = (
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    )
    assert first[1:] == ["cuda:0", "True", "False"]
    assert second == [first[0], "cuda:0", "False", "False"]


@needs_gpu
async def test_the_device_is_told_truly(folder_of, cache_dir):  # noqa: F811
    source = source_of(folder_of("llama", "q4f16_1"), numerics="fast")
    runtime = TVMRuntime({"device": "cuda", "cache_dir": cache_dir})
    await runtime.load(source, Reports())
    try:
        usage = await runtime.device_usage()
        assert usage.device == "cuda:0"
        assert "NVIDIA" in str(usage.name)
        assert 0 < usage.model < usage.memory - usage.free < usage.memory
    finally:
        await runtime.unload()


@needs_gpu
async def test_a_model_that_does_not_fit_a_gpu_is_refused_with_both_numbers(
    folder_of,  # noqa: F811
    cache_dir,
):
    source = source_of(folder_of("llama", "q4f16_1"), numerics="fast")
    options = {"device": "cuda", "cache_dir": cache_dir, "max_total_sequence_length": 1 << 30}
    runtime = TVMRuntime(options)
    with pytest.raises(InsufficientMemoryError, match=r"needs [0-9,]+ bytes.*free on the NVIDIA"):
        await runtime.load(source, Reports())


@needs_gpu
def test_a_second_gpu_gives_the_same_logits(folder_of, cache_dir):  # noqa: F811
    import tvm

    if not tvm.cuda(1).exist:
        pytest.skip("needs two NVIDIA GPUs")
    prompt = data("llama", "q4f16_1")[0]
    folder = folder_of("llama", "q4f16_1")
    steps = [len(prompt) - 3, 1, 1, 1]
    first, second = (
        run_chunks(
            executor_for(folder, cache_dir, device=name, kv_cache_dtype="float16"), prompt, steps
        )
        for name in ("cuda:0", "cuda:1")
    )
    assert np.array_equal(first, second)


def test_steps_of_single_tokens_are_decode_steps():
    one = Span([5], 7, [0], [0])
    assert is_decode([one])
    assert is_decode([one] * MOST_ROWS)
    assert not is_decode([one] * (MOST_ROWS + 1))
    assert not is_decode([one, Span([5], 7, [0])])  # no logits are wanted
    assert not is_decode([Span([5, 6], 7, [0], [0, 1])])


@pytest.mark.parametrize(
    ("quantization", "kv_dtype", "arch", "tensor_cores"),
    [
        ("q4f16_1", "float16", "sm_90", True),
        ("q0f16", "float16", "sm_80", True),
        ("q4f16_1", "float16", "sm_75", False),
        ("q4f16_1", "float32", "sm_90", False),
        ("q4f32_1", "float16", "sm_90", False),
        ("q0f32", "float16", "sm_120a", False),
    ],
)
def test_float16_models_get_tensor_cores_where_there_are_any(
    quantization, kv_dtype, arch, tensor_cores
):
    from mlc_widget.engine.runtimes.tvm.cuda import tensor_layers

    there = cuda.CudaTarget(arch, "x86_64-unknown-linux-gnu", "x86-64")
    builder = tensor_layers.builder_for(quantization_of(quantization), kv_dtype, there)
    assert isinstance(builder, tensor_layers.TensorBuilder) == tensor_cores
    assert builder.overlapped == (tensor_cores and there.capability >= 90)
    assert getattr(builder, "warpgroups", False) == (tensor_cores and arch == "sm_90")


@pytest.mark.parametrize("inputs", [64, 480, 1024, 1536, 4096, 14336])
@pytest.mark.parametrize("outputs", [64, 4096, 6144, 28672, 128256])
@pytest.mark.parametrize("bits", [4, 16])
def test_blocks_of_warpgroups_fit_a_multiprocessor_and_fill_the_gpu(inputs, outputs, bits):
    from mlc_widget.engine.runtimes.tvm.cuda import tensor_matmul_warpgroups as warpgroups
    from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_shape import MatmulShape

    shape = MatmulShape(inputs, outputs, bits, residual=False, bias=False, activation=None)
    some, many = warpgroups.most_rows(shape), warpgroups.MANY_ROWS
    if inputs % 1024 == 0:
        # As soon as blocks of many rows keep half of an H100 busy, they are used, and not before.
        assert -(-(some + 1) // many.rows) * many.count(shape) > 132 / 2
        assert some // many.rows * many.count(shape) <= 132 / 2
    else:
        assert some == 0
    for blocks in (warpgroups.SOME_ROWS, many):
        assert blocks.shared_bytes <= 227 << 10
        assert blocks.count(shape) * 64 * blocks.across >= outputs
        assert blocks.threads <= 1024


@pytest.mark.parametrize("inputs", [64, 480, 1536, 4096, 5120, 8192, 14336, 28672])
@pytest.mark.parametrize("outputs", [64, 4096, 28672])
@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("rows", [1, 8])
def test_streams_fit_a_multiprocessor_and_cover_a_layer(inputs, outputs, bits, activation, rows):
    from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_shape import MatmulShape
    from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_streams import Streams

    shape = MatmulShape(inputs, outputs, bits, residual=False, bias=False, activation=activation)
    streams = Streams(shape, rows)
    assert streams.each * (streams.shared_bytes + (1 << 10)) <= 228 << 10
    assert streams.blocks <= streams.each * shape.multiprocessors
    assert streams.count * streams.outputs == shape.outputs
    assert shape.per_slice % streams.chunk == 0
    assert streams.depth >= 2  # the next weights are on their way while a chunk is used
    beside = Streams(dataclasses.replace(shape, beside=True), rows)
    own = -(-beside.count // beside.blocks) * shape.per_slice // beside.chunk  # chunks
    assert beside.depth <= own
    if streams.each == 1:
        assert beside.depth == min(streams.depth, own)
    assert streams.threads <= 1024


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("rows", [16, 32])
def test_wide_blocks_fit_a_multiprocessor_and_cover_a_layer(bits, rows):
    from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_shape import SLICES, MatmulShape
    from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_wide import Wide, serves

    inputs, outputs = (1024, 2016, 3072, 4096, 7168, 14336, 28672), (64, 2048, 4096, 6144, 28672)
    for k, n, activation in itertools.product(inputs, outputs, (None, "silu")):
        shape = MatmulShape(k, n, bits, residual=False, bias=False, activation=activation)
        wide = Wide(shape, rows)
        assert serves(shape)
        assert wide.shared_bytes <= 227 << 10
        assert wide.across * wide.groups == 4  # warpgroups
        assert wide.blocks // wide.cluster * wide.width >= n
        assert wide.steps * wide.groups * wide.cluster == shape.steps
        assert SLICES % (wide.groups * wide.cluster) == 0
        assert shape.per_slice % wide.chunk == 0
        assert wide.stages >= 2
        assert wide.depth >= 2 or wide.steps == wide.chunk  # the next weights are on their way


@pytest.mark.parametrize(
    ("arch", "asked", "own", "expected"),
    [
        ("sm_90", None, 2048, 1024),
        ("sm_90", None, 300, 300),
        ("sm_90", 64, 2048, 64),
        ("sm_80", None, 2048, 128),
        ("sm_80", 512, 2048, 256),
        ("sm_120a", 200, 2048, 200),
    ],
)
def test_a_step_is_as_large_as_the_gpu_needs(arch, asked, own, expected):
    from mlc_widget.engine.runtimes.tvm.compile import Program
    from mlc_widget.engine.runtimes.tvm.sizing import chunk

    there = cuda.CudaTarget(arch, "x86_64-unknown-linux-gnu", "x86-64")
    program = Program(None, None, there, ())
    executor = SimpleNamespace(max_rows=program.max_rows, usual_rows=program.usual_rows)
    source = SimpleNamespace(config={"prefill_chunk_size": own})
    options = TVMOptions.parse({} if asked is None else {"prefill_chunk_size": asked})
    assert chunk(source, options, executor) == expected


def golden_cases():
    """All in float16, and some with float32 pages and activations."""
    for name in NAMES:
        for quantization in ("q0f16", "q4f16_0", "q4f16_1", "q8f16_1"):
            yield name, quantization, "float16"
    for name in ("llama", "qwen3"):
        for quantization in ("q0f16", "q4f16_1"):
            yield name, quantization, "float32"


@needs_gpu
@pytest.mark.parametrize(("name", "quantization", "kv_dtype"), list(golden_cases()))
def test_golden_logits_on_a_gpu(name, quantization, kv_dtype, folder_of, cache_dir):  # noqa: F811
    prompt, reference = data(name, quantization)
    executor = executor_for(
        folder_of(name, quantization), cache_dir, device="cuda", kv_cache_dtype=kv_dtype
    )
    logits = run_chunks(executor, prompt, CHUNKS)
    assert np.linalg.norm(logits - reference) < 3e-3 * np.linalg.norm(reference)
    assert np.array_equal(run_chunks(executor, prompt, [1, 2, 5, 76]), logits)
    assert np.array_equal(run_chunks(executor, prompt, [40, *[1] * 44]), logits)


@needs_gpu
@pytest.mark.parametrize("quantization", ["q0f16", "q4f16_1"])
def test_bits_are_the_same_in_any_company_on_a_gpu(quantization, folder_of, cache_dir):  # noqa: F811
    """Rows alone, in decode steps of 2 … 32 rows, and among 100 rows, whose kernels are others."""
    prompt, _ = data("llama", quantization)
    executor = executor_for(
        folder_of("llama", quantization),
        cache_dir,
        device="cuda",
        kv_cache_dtype="float16",
        max_total_sequence_length=4096,
    )
    alone = run_chunks(executor, prompt, CHUNKS)
    for others in (1, 7, 9, 31):
        stepper = Stepper(executor)
        for i, token in enumerate(prompt):
            stepper.step(**{f"o{n}": [(i + n) % 64] for n in range(others)}, a=[token])
        assert np.array_equal(stepper.all("a"), alone)
    stepper = Stepper(executor)
    stepper.step(a=prompt[:3], b=[i % 64 for i in range(100)])
    stepper.step(b=list(range(60)), a=prompt[3:])
    assert np.array_equal(stepper.all("a"), alone)


LAYERS: list[tuple[int, int, int, dict[str, Any]]] = [
    (1024, 128, 4, {"activation": "silu"}),
    (1024, 96, 8, {"bias": True}),
    (2048, 192, 16, {"activation": "gelu_tanh", "bias": True}),
    (2048, 64, 4, {"residual": True}),
    (1024, 16384, 4, {"activation": "gelu"}),
    (1024, 8704, 16, {"residual": True, "bias": True}),
    (480, 96, 16, {}),
    (576, 128, 8, {"activation": "silu"}),
    (896, 160, 4, {"residual": True}),
    (4096, 4352, 4, {"activation": "silu"}),
    (7168, 96, 4, {"residual": True, "bias": True}),
    (6688, 4224, 8, {"residual": True}),
    (4096, 8448, 16, {"activation": "silu"}),
    (4096, 4096, 4, {"residual": True}),
    (4064, 4160, 8, {"activation": "gelu"}),
    (3072, 6144, 4, {"bias": True}),
    (2048, 192, 4, {"norm": (2048, 1e-5)}),
    (4096, 4352, 4, {"norm": (4096, 1e-5), "activation": "silu"}),
    (896, 160, 16, {"norm": (896, 1e-6), "bias": True}),
    (2592, 96, 8, {"norm": (2564, 1e-6)}),
    (2048, 2048, 4, {"residual": True, "beside": True}),
    (2048, 2176, 16, {"beside": True}),
]


@needs_gpu
@pytest.mark.parametrize(("inputs", "outputs", "bits", "options"), LAYERS)
def test_a_layer_gives_rows_the_same_bits_among_any_number_on_a_gpu(inputs, outputs, bits, options):
    import tvm

    from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul import (
        arranged_rows,
        make_warpgroup_matmul,
    )
    from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_shape import MatmulShape
    from mlc_widget.engine.runtimes.tvm.cuda.tensor_matmul_warpgroups import arranged

    target = cuda.local_target()
    if not target.has_warpgroups:
        pytest.skip("needs a Hopper GPU")
    install(target.arch)
    every = {"residual": False, "bias": False, "activation": None, **options}
    norm = every.pop("norm", None)
    kernel = make_warpgroup_matmul(inputs, outputs, bits, norm=norm, **every)
    name = kernel.attrs["global_symbol"]
    compiled = tvm.compile(tvm.IRModule({name: kernel}), target=target.tvm_target())
    shape = MatmulShape(inputs, outputs, bits, **every)
    rng = np.random.default_rng(inputs + outputs)

    def normal(shape, dtype, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(dtype)

    device, rows = tvm.cuda(0), 512
    x, added = normal((rows, inputs), "float16"), normal((rows, outputs), "float32")
    scale = tvm.runtime.tensor(normal((inputs,), "float32"), device)
    if norm is not None:
        x = x.astype("float32") ** 3
        x[:, norm[0] :] = 0
    if bits == 16:
        w = s = tvm.runtime.tensor(normal(shape.w[0], "float16"), device)
    else:
        words = rng.integers(0, 1 << 32, shape.w[0], dtype=np.uint32)
        w, s = (
            tvm.runtime.tensor(array, device)
            for array in (words, normal(shape.s[0], "float16", 0.01))
        )
    b = tvm.runtime.tensor(normal((outputs,), "float32"), device)

    def run(first, count):
        here = tvm.runtime.tensor(x[first : first + count], device)
        residual = tvm.runtime.tensor(added[first : first + count], device)
        y = tvm.runtime.empty(
            (count, shape.outputs), "float16" if shape.gated else "float32", device
        )
        y.copyfrom(np.full(y.shape, np.nan, str(y.dtype)))
        room = tvm.runtime.empty(arranged(shape, arranged_rows(count)), "float16", device)
        room.copyfrom(np.full(room.shape, np.nan, "float16"))
        every_arg = [
            here, w, s, b if shape.bias else here, residual if shape.residual else here, y, room,
        ]  # fmt: skip
        if norm is not None:
            every_arg.insert(1, scale)
            every_arg.insert(-1, tvm.runtime.empty((count, inputs), "float16", device))
        compiled[name](*every_arg)
        return y.numpy()

    few = np.concatenate([run(first, 8) for first in range(0, rows, 8)])
    assert np.isfinite(few).all()
    assert np.array_equal(np.concatenate([run(first, 1) for first in range(8)]), few[:8])
    for count in (2, 5, 7, 9, 16, 17, 32, 33, 64, 100, 129, 300, 512):
        assert np.array_equal(run(0, count), few[:count]), count


@needs_gpu
@pytest.mark.parametrize(("name", "window"), [("llama", None), ("mistral", 21), ("mistral", 1500)])
def test_long_contexts_on_a_gpu(name, window, folder_of, cache_dir):  # noqa: F811
    """Of more keys than a part has, 2048, so that they have several blocks in steps of few rows."""
    folder = folder_of(name, "q4f16_1")
    file = folder / "mlc-chat-config.json"
    config = json.loads(file.read_text())
    for part in (config, config["model_config"]):
        part["context_window_size"] = 4096
        if window is not None:
            part["sliding_window_size"] = window
    file.write_text(json.dumps(config))
    options = {"kv_cache_dtype": "float16", "max_total_sequence_length": 8192}
    tokens = np.random.default_rng(0).integers(0, 60, 2300).tolist()
    expected = run_chunks(executor_for(folder, cache_dir, **options), tokens, [230] * 10)
    executor = executor_for(folder, cache_dir, device="cuda", **options)
    alone = run_chunks(executor, tokens, [230] * 10)
    assert np.linalg.norm(alone - expected) < 5e-3 * np.linalg.norm(expected)
    mixed = [1, 98, 1, *[230] * 8, 5, 5, *[1] * 110, 5, 5, 40, *[1] * 190]
    for chunks in (mixed, [*[250] * 9, *[1] * 50]):
        assert np.array_equal(run_chunks(executor, tokens, chunks), alone)
    stepper, counts = Stepper(executor), {"a": 2250, "b": 2040, "c": 30}
    for name, count in counts.items():
        for at in range(0, count, 230):
            stepper.step(**{name: tokens[at : min(at + 230, count)]})
    for added in (*[1] * 10, 3, 1, 40, *[1] * 10):
        stepper.step(**{n: tokens[at : at + added] for n, at in counts.items()})
        counts = {n: at + added for n, at in counts.items()}
    for name, count in counts.items():
        assert np.array_equal(stepper.all(name), alone[:count])


@needs_gpu
def test_a_second_load_needs_no_compiler_on_a_gpu(folder_of, tmp_path, monkeypatch):  # noqa: F811
    """Nor does it read the model's files."""
    monkeypatch.setattr(packed_weights, "_SMALLEST", 1)
    prompt, _ = data("llama", "q4f16_1")
    folder = folder_of("llama", "q4f16_1")
    first = executor_for(folder, tmp_path, device="cuda", kv_cache_dtype="float16")
    task = first.save_weights(lambda: False)
    assert task is not None
    task.join(60)
    expected = run_chunks(first, prompt, CHUNKS)
    monkeypatch.setattr(compiling, "trace", None)
    monkeypatch.setattr(packed, "load_weights", None)
    second = executor_for(folder, tmp_path, device="cuda", kv_cache_dtype="float16")
    assert np.array_equal(run_chunks(second, prompt, CHUNKS), expected)


@needs_gpu
@pytest.mark.parametrize("kv_dtype", ["float16", "float32"])
def test_a_copied_page_serves_as_well_on_a_gpu(kv_dtype, folder_of, cache_dir):  # noqa: F811
    prompt, _ = data("llama", "q0f16")
    executor = executor_for(
        folder_of("llama", "q0f16"), cache_dir, device="cuda", kv_cache_dtype=kv_dtype
    )
    executor.run([Span(prompt[:20], 0, [0, 1])])
    wanted = executor.run([Span(prompt[20:21], 20, [0, 1], [0])]).copy()
    executor.copy_page(0, 3)
    executor.copy_page(1, 2)
    executor.run([Span([9] * 32, 0, [0, 1])])  # what was copied from
    assert np.array_equal(executor.run([Span(prompt[20:21], 20, [3, 2], [0])]), wanted)


@needs_gpu
def test_two_models_do_not_meet_on_a_gpu(folder_of, cache_dir):  # noqa: F811
    """Their steps take turns, kernel by kernel and as graphs, and share memory for activations."""
    names = ("llama", "qwen3")
    executors = [
        executor_for(folder_of(n, "q4f16_1"), cache_dir, device="cuda", kv_cache_dtype="float16")
        for n in names
    ]
    prompts = [data(n, "q4f16_1")[0] for n in names]
    chunks = [*[1] * 20, 34, *[1] * 10, 20]
    alone = [run_chunks(e, p, chunks) for e, p in zip(executors, prompts, strict=True)]

    def again(i):
        return all(
            np.array_equal(run_chunks(executors[i], prompts[i], chunks), alone[i])
            for _ in range(20)
        )

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(again, range(2))) == [True, True]


@needs_gpu
@pytest.mark.parametrize("rows", [1, 3])
def test_steps_ahead_change_no_token_on_a_gpu(rows, folder_of, cache_dir):  # noqa: F811
    prompt = data("llama", "q4f16_1")[0]
    folder = folder_of("llama", "q4f16_1")
    executor = executor_for(folder, cache_dir, device="cuda", kv_cache_dtype="float16")
    held = [list(range(8 * i, 8 * i + 8)) for i in range(rows)]
    starts = [20 + 7 * i for i in range(rows)]

    def generated(temperature):
        """Of steps that go on, a pause for another sequence, and fewer pages at a time."""
        tokens, known = [], [prompt[start] for start in starts]
        for pages, start in zip(held, starts, strict=True):
            executor.run([Span(prompt[:start], 0, pages)])
        for i in range(60):
            if i == 40:
                executor.run([Span(prompt[:5], 0, [30])])
            spans = []
            for pages, start, token in zip(held, starts, known, strict=True):
                needed = pages if i < 20 else pages[: (start + i) // 16 + 1]
                spans.append(Span([token], start + i, needed, [0], temperature))
            rows_of = executor.run(spans)
            if temperature is None:
                known = [int(row.argmax()) for row in rows_of]
            else:
                known = [best.token for best in rows_of]
            tokens.append(known)
        return tokens

    assert generated(0.0) == generated(None)


@needs_gpu
def test_a_graph_does_not_outlive_its_memory(folder_of, cache_dir):  # noqa: F811
    """The pool is emptied, as when another model is unloaded, and its memory used for others."""
    import tvm

    prompt = data("llama", "q4f16_1")[0][:30]  # a token at a time, each step one graph
    folder = folder_of("llama", "q4f16_1")
    executor = executor_for(folder, cache_dir, device="cuda", kv_cache_dtype="float16")
    expected = run_chunks(executor, prompt, [1] * 30)
    clear = tvm.get_global_func("vm.builtin.memory_manager.clear")
    pool.shrink(clear)
    # Of all sizes, as the driver takes small ones from one place and large ones from another.
    sizes = {1 << 10: 512, 1 << 14: 128, 1 << 18: 64, 1 << 22: 16}
    counts = [size for size, count in sizes.items() for _ in range(count)]
    others = [tvm.runtime.empty((count,), "float32", tvm.cuda(0)) for count in counts]
    for tensor, count in zip(others, counts, strict=True):
        tensor.copyfrom(np.full((count,), np.nan, np.float32))
    assert np.array_equal(run_chunks(executor, prompt, [1] * 30), expected)
    assert all(np.isnan(tensor.numpy()).all() for tensor in others)


@needs_gpu
def test_weights_arrive_in_pieces_on_a_gpu():
    import tvm

    rng = np.random.default_rng(0)
    shapes = [((3, 5, 7), "float16"), ((1000,), "uint32"), ((0, 4), "float32"), ((64, 64), "uint8")]
    arrays = [rng.integers(0, 200, shape).astype(dtype) for shape, dtype in shapes]
    left = list(arrays)
    there = upload(left, 0, lambda s, t: tvm.runtime.empty(s, t, tvm.cuda(0)), piece=1000)
    assert not left
    for array, tensor in zip(arrays, there, strict=True):
        assert str(tensor.dtype) == str(array.dtype)
        assert np.array_equal(tensor.numpy(), array)


def test_the_pool_shrinks_between_steps():
    before = pool.epoch()
    held = []
    pool.shrink(lambda: held.append(pool.lock.locked()))
    assert held == [True]
    assert not pool.lock.locked()
    assert pool.epoch() != before


@needs_gpu
async def test_a_seed_gives_the_same_text_in_a_batch_on_a_gpu(folder_of, cache_dir):  # noqa: F811
    source = source_of(folder_of("llama", "q4f16_1"), numerics="fast")
    runtime = TVMRuntime({"device": "cuda", "cache_dir": cache_dir})
    await runtime.load(source, Reports())
    try:
        sampling = greedy(max_tokens=60, temperature=1.0, seed=3)

        async def text(prompt, request_id):
            events = await collect(runtime, prompt, sampling, request_id)
            return [token for event in events for token in event.token_ids]

        prompts = [[5, 6, 7], list(range(40)), [9]]
        alone = [await text(prompt, str(i)) for i, prompt in enumerate(prompts)]
        together = [text(prompt, f"again {i}") for i, prompt in enumerate(prompts)]
        assert await asyncio.gather(*together) == alone
    finally:
        await runtime.unload()


@needs_gpu
async def test_drafts_change_no_bit_on_a_gpu(folder_of, cache_dir):  # noqa: F811
    source = source_of(folder_of("llama", "q4f16_1"), numerics="fast")
    prompt, few = [*range(10, 40)] * 2, dict.fromkeys((50, 51, 52), 100.0)
    told: dict[str, list[tuple[list[int], str]]] = {}
    for mode in ("disable", "always", "auto"):
        runtime = TVMRuntime({"device": "cuda", "cache_dir": cache_dir, "speculative_mode": mode})
        await runtime.load(source, Reports())
        try:
            accepted, told[mode] = 0, []
            for changes in ({}, {"temperature": 1.0, "logit_bias": few}, {"logit_bias": few}):
                sampling = greedy(max_tokens=120, **changes)
                events = await collect(runtime, prompt, sampling)
                told[mode].append((ids_of(events), text_of(events)))
                accepted += events[-1].stats.accepted_draft_tokens
            assert (accepted > 50) == (mode == "always") or mode == "auto"
        finally:
            await runtime.unload()
    assert told["always"] == told["auto"] == told["disable"]
