"""Converts a folder saved by transformers to one in MLC format, and quantises the weights.

The weights are read in pieces: only a few pieces and the scales of one parameter are in memory at a
time, however large the model is.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from mlc_widget.api.closing import Closing
from mlc_widget.api.errors import BadRequestError, ModelError, ModelFormatError
from mlc_widget.engine.store import quantizer
from mlc_widget.engine.store.formats import hf_config, hf_tokenizer, hf_weights
from mlc_widget.engine.store.formats.hf_folder import HFFolder, SafetensorsModel
from mlc_widget.engine.store.formats.hf_weights import Parameter
from mlc_widget.engine.store.importance import (
    MOST_TOKENS,
    ImportanceRun,
    calibration_text,
)
from mlc_widget.engine.store.model_config import check_config, token_ids
from mlc_widget.engine.store.tensor_cache_writer import TensorCacheWriter, write_whole
from mlc_widget.engine.store.transformers_files import CONFIG, INDEX
from mlc_widget.models import CONFIG_FILE

Array = npt.NDArray[Any]
_T = TypeVar("_T")
Progress = Callable[[int, int], None]
"""Called with the number of bytes done and of all bytes; an exception ends the conversion."""

CODES_AT: Final = 600_000_000
"""Models with at least this many weights get 4 bits by default; smaller ones lose too much."""
_VERSION: Final = 3
"""The version of the converted form; models of another version are converted again."""
_GENERATION: Final = "generation_config.json"
PART: Final = ".part"
_NOTE: Final = "conversion.json"
_THREADS: Final = 4
_LARGEST_TOKENIZER: Final = 256 << 20
_BESIDE: Final = 16 << 20
"""Bytes that must be free on the disk in addition to those of the weights."""
_MOST_EOS: Final = 64


class Vocabulary(Protocol):
    """The part of the model's tokenizer that a conversion needs."""

    @property
    def vocab_size(self) -> int: ...  # noqa: D102

    def token_to_id(self, token: str) -> int | None: ...  # noqa: D102

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]: ...  # noqa: D102


class Conversion(Closing):
    """The conversion of one model. As much as possible is checked before the work starts.

    Args:
        path: The folder.
        quantization: A name in `quantizer.FORMATS`; None for 4 bits, or 8 if the model is small.
        calibration: A text file on which the importance of weights with 4 bits is measured; None
            for the text in this package.

    Attributes:
        path: The folder.
        format: How the model will be stored.
        nbytes: The size of the converted weights in bytes.
        source_bytes: The number of bytes of weights to be read; the measurement of importance
            reads most of them once more.
        weights: The number of weights.
        name: A folder name for the result, unique to this source and quantization.

    Raises:
        ModelFormatError: A file is missing, malformed, or does not fit the others.
        UnsupportedModelError: The model is not supported, or has its weights in another format.
        BadRequestError: There is no such quantization, or `calibration` is not a text.
    """

    def __init__(
        self, path: Path, quantization: str | None = None, calibration: Path | None = None
    ) -> None:
        if quantization is not None and quantization not in quantizer.FORMATS:
            raise BadRequestError(
                f"quantization = {quantization!r}: give {', '.join(quantizer.FORMATS)}.",
                param="quantization",
            )
        self.path = path
        self._text = calibration_text(calibration)
        self._done = 0
        self._folder = HFFolder(path)
        config = self._folder.read_json(CONFIG)
        hf_config.model_config(config, has_output=True)  # its errors before those of the weights
        hf_tokenizer.check_tokenizer(self._folder)
        self._model = SafetensorsModel(self._folder)
        try:
            outputs = ("lm_head.weight", "embed_out.weight")
            has_output = any(name in self._model.tensors for name in outputs)
            self._model_config = hf_config.model_config(config, has_output=has_output)
            self._kind = config["model_type"]
            self._parameters = list(hf_weights.parameters(self._kind, self._model_config))
            hf_weights.check(self._model, self._parameters)
            self._generation = self._folder.read_optional_json(_GENERATION)
            self._tokenizer = hf_tokenizer.tokenizer_config(self._folder)
            self._config = self._chat_config(config)
            check_config(self._config)
        except BaseException:
            self._model.close()
            raise
        self.weights = sum(int(np.prod(p.shape, dtype=object)) for p in self._parameters)
        if quantization is None:
            quantization = "q4f16_1" if self.weights >= CODES_AT else "q8f16_1"
        self.format = quantizer.FORMATS[quantization]
        self.nbytes = sum(self.format.nbytes(p.shape) for p in self._parameters)
        self.source_bytes = hf_weights.source_bytes(self._model, self._parameters)
        self._measured = self.format.bits == 4
        if self._measured:
            self.source_bytes += self._importance_run(lambda nbytes: None).nbytes
        self.name = f"{_slug(path)}-{quantization}-{self._key()}"

    def close(self) -> None:
        """Close the files. Idempotent."""
        self._model.close()

    def run(self, destination: Path, vocabulary: Vocabulary, progress: Progress) -> None:
        """Write the folder. It appears under its name only when it is complete.

        Args:
            destination: The folder, which must not exist; its parent must.
            vocabulary: The model's tokenizer.
            progress: Called on this thread.

        Raises:
            ModelFormatError: A weight is not a number, or the files change meanwhile.
            ModelError: The disk is full, or the folder cannot be written.
        """
        self._check_space(destination.parent)
        aside = destination.parent / f".{destination.name}.{os.getpid()}{PART}"
        try:
            aside.mkdir()
            try:
                importance = self._importance(vocabulary, progress)
                self._write_weights(aside, importance, progress)
                self._write_rest(aside, vocabulary)
                for file in self._model.files:
                    file.check_unchanged()
                aside.rename(destination)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "Free some space" if full else "Correct its permissions"
            raise ModelError(
                f"{destination} cannot be written: {error.strerror or error}. {remedy}, or choose "
                "another place (models that are converted while they are loaded are kept in "
                "MLC_WIDGET_HOME).",
                code="disk_full" if full else None,
                param=str(destination),
            ) from error

    def _check_space(self, folder: Path) -> None:
        needed = self.nbytes + _BESIDE
        try:
            free = shutil.disk_usage(folder).free
        except OSError:
            return  # writing tells more
        if free < needed:
            raise ModelError(
                f"{self.path} in {self.format.name} needs {needed / 1e9:.1f} GB in {folder}, "
                f"which has {free / 1e9:.1f} free. Free some space, or choose another place "
                "(models that are converted while they are loaded are kept in MLC_WIDGET_HOME).",
                code="disk_full",
                param=str(folder),
            )

    # The weights

    def _importance_run(self, on_bytes: Callable[[int], object]) -> ImportanceRun:
        return ImportanceRun(
            self._model, self._parameters, self._kind, self._model_config, on_bytes
        )

    def _importance(self, vocabulary: Vocabulary, progress: Progress) -> Mapping[str, Array]:
        """The importance of the inputs of each matrix, where weights get 4 bits."""
        self._done = 0
        progress(0, self.source_bytes)
        size = self._model_config["vocab_size"]
        most = min(MOST_TOKENS, self._model_config["context_window_size"])
        ids = vocabulary.encode(self._text, add_special_tokens=True)[:most]
        ids = [i for i in ids if 0 <= i < size]
        if not self._measured or not ids:
            return {}
        return self._importance_run(lambda nbytes: self._count(nbytes, progress)).measure(ids)

    def _count(self, nbytes: int, progress: Progress) -> None:
        self._done += nbytes
        progress(self._done, self.source_bytes)

    def _write_weights(
        self, folder: Path, importance: Mapping[str, Array], progress: Progress
    ) -> None:
        writer = TensorCacheWriter(folder)

        def read_bytes(count: int) -> None:
            self._count(count, progress)

        with (
            ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), "mlc_widget-convert") as pool,
            contextlib.closing(writer),
        ):
            for parameter in self._parameters:
                if len(parameter.shape) == 2 and self.format.coded:
                    weights = importance.get(parameter.name)
                    self._write_codes(writer, parameter, weights, pool, read_bytes)
                else:
                    self._write_floats(writer, parameter, pool, read_bytes)
            writer.finish(self.weights)

    def _write_codes(
        self,
        writer: TensorCacheWriter,
        parameter: Parameter,
        importance: Array | None,
        pool: ThreadPoolExecutor,
        read_bytes: Callable[[int], None],
    ) -> None:
        bits, dtype = self.format.bits, self.format.dtype
        scales: list[Array] = []

        def quantized(rows: Array) -> tuple[Array, Array]:
            return quantizer.quantize(rows, bits, dtype, importance)

        def codes() -> Iterator[Array]:
            for words, scale in self._worked(parameter, quantized, pool, read_bytes):
                scales.append(scale)
                yield words

        rows, inputs = parameter.shape
        groups = -(-inputs // quantizer.GROUP)
        stem = parameter.name.removesuffix(".weight")
        shape = (rows, groups * bits)
        writer.add(f"{stem}.q_weight", shape, "uint32", 4 * rows * groups * bits, codes())
        size = np.dtype(dtype).itemsize
        writer.add(f"{stem}.q_scale", (rows, groups), dtype, size * rows * groups, scales)

    def _write_floats(
        self,
        writer: TensorCacheWriter,
        parameter: Parameter,
        pool: ThreadPoolExecutor,
        read_bytes: Callable[[int], None],
    ) -> None:
        dtype = self.format.dtype

        def rounded(rows: Array) -> Array:
            quantizer.check_finite(rows)
            with np.errstate(over="ignore"):
                made = np.ascontiguousarray(rows, dtype)
            if not np.isfinite(made).all():
                raise quantizer.NotRepresentableError(
                    f"a weight of {np.abs(rows).max():.3g} is too large for float16"
                )
            return made

        pieces = self._worked(parameter, rounded, pool, read_bytes)
        nbytes = int(np.prod(parameter.shape, dtype=object)) * np.dtype(dtype).itemsize
        writer.add(parameter.name, parameter.shape, dtype, nbytes, pieces)

    def _worked(
        self,
        parameter: Parameter,
        work: Callable[[Array], _T],
        pool: ThreadPoolExecutor,
        read_bytes: Callable[[int], None],
    ) -> Iterator[_T]:
        """The results of `work` for all pieces, in order; a few are computed at a time."""
        ahead = min(_THREADS, os.cpu_count() or 1)
        running: deque[tuple[str, int, Future[_T]]] = deque()

        def oldest() -> _T:
            name, size, future = running.popleft()
            try:
                made = future.result()
            except quantizer.NotRepresentableError as error:
                file = self._model.tensors[name][0]
                raise ModelFormatError(
                    f"{file.path}: tensor {name} cannot be stored in {self.format.name}: {error}. "
                    "Download the file again; or, if the weights really are that large, use "
                    "quantization q0f32.",
                    param=str(file.path),
                ) from None
            read_bytes(size)
            return made

        for name, size, rows in hf_weights.read(self._model, parameter, hf_weights.PIECE):
            running.append((name, size, pool.submit(work, rows)))
            if len(running) > ahead:
                yield oldest()
        while running:
            yield oldest()

    # The other files

    def _chat_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        window = self._model_config["context_window_size"]
        return {
            "version": "0.1.0",
            "model_type": hf_config.mlc_model_type(config),
            "model_config": self._model_config,
            "vocab_size": self._model_config["vocab_size"],
            "context_window_size": window,
            "sliding_window_size": self._model_config.get("sliding_window_size", -1),
            "prefill_chunk_size": min(window, 8192),
            "attention_sink_size": -1,
            "eos_token_id": self._end_ids(config),
            **hf_config.sampling(self._generation),
            "tokenizer_files": [hf_tokenizer.TOKENIZER, hf_tokenizer.TOKENIZER_CONFIG],
            "model_task": "chat",
        }

    def _end_ids(self, config: Mapping[str, Any]) -> list[int]:
        found: set[int] = set()
        for file, values in ((CONFIG, config), (_GENERATION, self._generation)):
            value = values.get("eos_token_id")
            if value is None:
                continue
            try:
                found.update(token_ids("eos_token_id", value))
            except BadRequestError as error:
                raise ModelFormatError(f"{file}: {error.message}", param="eos_token_id") from None
        return sorted(found)[:_MOST_EOS]

    def _write_rest(self, folder: Path, vocabulary: Vocabulary) -> None:
        tokens = dict(self._tokenizer)
        config = {**self._config, "quantization": self.format.name}
        size = config["vocab_size"]
        end = vocabulary.token_to_id(tokens.get("eos_token", ""))
        if end is not None:
            config["eos_token_id"] = sorted({*config["eos_token_id"], end})
        begin = vocabulary.token_to_id(tokens.get("bos_token", ""))
        if begin is None:
            tokens["add_bos_token"] = False
        else:
            config["bos_token_id"] = begin
            first = vocabulary.encode("a", add_special_tokens=True)[:1]
            tokens.setdefault("add_bos_token", first == [begin])
        config["active_vocab_size"] = max(1, min(size, vocabulary.vocab_size))
        tokenizer = self._folder.read(hf_tokenizer.TOKENIZER, _LARGEST_TOKENIZER)
        write_whole(folder / hf_tokenizer.TOKENIZER, tokenizer)
        write_whole(folder / hf_tokenizer.TOKENIZER_CONFIG, _json(tokens))
        source = {
            "source": str(self.path), "quantization": self.format.name, "version": _VERSION,
        }  # fmt: skip
        write_whole(folder / _NOTE, _json(source))
        write_whole(folder / CONFIG_FILE, _json(config))

    def _key(self) -> str:
        """A digest of the source.

        It covers the contents of small files, and the size, time of change and header of files of
        weights.
        """
        digest = hashlib.sha256(f"{_VERSION} {self.format.name}".encode())
        if self._measured:
            digest.update(hashlib.sha256(self._text.encode()).digest())

        def take(name: str, *parts: bytes) -> None:
            for part in (name.encode(), *parts):
                digest.update(len(part).to_bytes(8, "little") + part)

        for name in _small_files(self._folder):
            take(name, self._folder.read(name, _LARGEST_TOKENIZER))
        for file in self._model.files:
            take(file.path.name, f"{file.size} {file.mtime_ns}".encode(), file.header)
        return digest.hexdigest()[:20]


def _small_files(folder: HFFolder) -> Sequence[str]:
    names = (
        CONFIG, INDEX, _GENERATION, hf_tokenizer.TOKENIZER, hf_tokenizer.TOKENIZER_CONFIG,
        hf_tokenizer.TEMPLATE, "special_tokens_map.json",
    )  # fmt: skip
    return [name for name in names if folder.has(name)]


def _slug(path: Path) -> str:
    """A readable name: the folder's, or the repository's if it is a snapshot in the Hub's cache."""
    name = path.absolute().name
    above = path.absolute().parent
    if above.name == "snapshots" and above.parent.name.startswith("models--"):
        name = above.parent.name.rpartition("--")[2]
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)
    return kept[:60].strip("-.") or "model"


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
