"""A folder saved by Hugging Face's transformers; files outside the folder are not read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.closing import Closing
from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.api.request_values import shortened
from mlc_widget.engine.store.formats.safetensors_file import SafetensorsFile, SafetensorsTensor
from mlc_widget.engine.store.model_files import read_file, read_json_object
from mlc_widget.engine.store.transformers_files import INDEX, SINGLE, SUFFIX

_PICKLES: Final = re.compile(r".+\.(?:bin|pt|pth|ckpt|pkl|pickle)")
_LARGEST_JSON: Final = 16 << 20
_MOST_SHARDS: Final = 1000
_MOST_NAMES: Final = 1 << 16
_MOST_FILES: Final = 10_000
_SHARD: Final = re.compile(r"[^/\\\x00-\x1f:]{1,200}\.safetensors")
_REMEDY: Final = "download the model again"


class HFFolder:
    """Reads small files of a folder.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._roots = _roots(path)

    def has(self, name: str) -> bool:
        """Whether the folder has an entry of this name."""
        return os.path.lexists(self.path / name)

    def inside(self, name: str) -> Path:
        """The path of a file.

        Raises:
            ModelFormatError: It is a link out of the folder. (Links from a snapshot in the Hub's
                cache to the same repository's files are allowed.)
        """
        path = self.path / name
        real = os.path.realpath(path)
        if not any(real.startswith(root + os.sep) for root in self._roots):
            raise ModelFormatError(
                f"{path} is a link to {real}, which is outside the model's folder. Put the file "
                "itself there, or give the folder that it lies in.",
                param=str(path),
            )
        return path

    def read(self, name: str, largest: int) -> bytes:
        """A file's content.

        Raises:
            ModelFormatError: It is missing, outside the folder, not a regular file, or too large.
        """
        return read_file(self.inside(name), largest, f"Without it, {_REMEDY}.")

    def read_json(self, name: str) -> dict[str, Any]:
        """An object in JSON.

        Raises:
            ModelFormatError: As `read`; or it is malformed.
        """
        missing = f"Without it, {_REMEDY}."
        return read_json_object(self.inside(name), _LARGEST_JSON, missing, _REMEDY)

    def read_optional_json(self, name: str) -> dict[str, Any]:
        """An object in JSON; an empty one where there is no such file."""
        return self.read_json(name) if self.has(name) else {}

    def _names(self) -> Iterator[str]:
        try:
            with os.scandir(self.path) as entries:
                for count, entry in enumerate(entries):
                    if count < _MOST_FILES:
                        yield entry.name
        except OSError as error:
            raise ModelFormatError(
                f"{self.path} cannot be read: {error.strerror or error}.", param=str(self.path)
            ) from error

    def weight_map(self) -> dict[str, set[str] | None]:
        """The files of weights, each with the names of the tensors to take; None for all.

        Raises:
            ModelFormatError: There are none, or the index lists something else.
            UnsupportedModelError: There are only pickles.
        """
        if self.has(INDEX):
            return self._indexed()
        names = sorted(self._names())
        if self.has(SINGLE):
            return {SINGLE: None}
        found = [name for name in names if name.endswith(SUFFIX)]
        if len(found) == 1:
            if found[0].startswith("adapter_"):
                raise UnsupportedModelError(
                    f"{self.path / found[0]} holds an adapter (LoRA), not a model. Merge it into "
                    "its model with peft's merge_and_unload() and save that.",
                    param=str(self.path / found[0]),
                )
            return {found[0]: None}
        if found:
            raise ModelFormatError(
                f"{self.path} has {len(found)} .safetensors files and no {INDEX} that says which "
                "tensor is in which file. Download the whole repository.",
                param=str(self.path / INDEX),
            )
        if pickles := [name for name in names if _PICKLES.fullmatch(name)]:
            raise UnsupportedModelError(
                f"{self.path} has its weights in {pickles[0]}, which is a pickle: reading one can "
                "run any code, so it is not read. Use the model in safetensors, or save it so "
                "with transformers, where you trust it: "
                "AutoModelForCausalLM.from_pretrained(…).save_pretrained(folder, "
                "safe_serialization=True).",
                param=str(self.path / pickles[0]),
            )
        raise ModelFormatError(
            f"{self.path} has no weights: neither {SINGLE} nor {INDEX}. Download the whole "
            "repository.",
            param=str(self.path / SINGLE),
        )

    def _indexed(self) -> dict[str, set[str] | None]:
        where = self.path / INDEX
        listed = self.read_json(INDEX).get("weight_map")

        def wrong(what: str) -> ModelFormatError:
            return ModelFormatError(f"{where}: {what}; {_REMEDY}.", param=str(where))

        if not isinstance(listed, dict) or not listed:
            raise wrong(f"weight_map is {shortened(listed)}, and must name each tensor's file")
        if len(listed) > _MOST_NAMES:
            raise wrong(f"weight_map has {len(listed)} tensors; at most {_MOST_NAMES} are allowed")
        files: dict[str, set[str] | None] = {}
        for tensor, name in listed.items():
            if not isinstance(name, str) or not _SHARD.fullmatch(name):
                raise wrong(
                    f"weight_map puts {shortened(tensor)} into {shortened(name)}, which is not "
                    "the name of a .safetensors file in the folder"
                )
            tensors = files.setdefault(name, set())
            assert tensors is not None
            tensors.add(tensor)
            if len(files) > _MOST_SHARDS:
                raise wrong(f"weight_map has more than {_MOST_SHARDS} files")
        return files


class SafetensorsModel(Closing):
    """The tensors in all files of a folder. Close it when it is no longer needed.

    Args:
        folder: The folder.

    Attributes:
        folder: The folder.
        files: The open files.
        tensors: Pairs of file and tensor, by the tensor's name.

    Raises:
        ModelFormatError: A file is missing, damaged, or outside the folder.
        UnsupportedModelError: There are no safetensors, or some of an unknown type.
    """

    def __init__(self, folder: HFFolder) -> None:
        self.folder = folder
        self.files: list[SafetensorsFile] = []
        self.tensors: dict[str, tuple[SafetensorsFile, SafetensorsTensor]] = {}
        try:
            for name, wanted in folder.weight_map().items():
                self._open(name, wanted)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the files. Idempotent."""
        for file in self.files:
            file.close()

    def _open(self, name: str, wanted: set[str] | None) -> None:
        file = SafetensorsFile(self.folder.inside(name))
        self.files.append(file)
        for tensor in file.tensors if wanted is None else wanted:
            if tensor not in file.tensors:
                raise ModelFormatError(
                    f"{file.path} has no tensor {shortened(tensor)}, which {INDEX} puts there. "
                    "The files belong to different models; download all again.",
                    param=str(file.path),
                )
            self.tensors[tensor] = (file, file.tensors[tensor])


def _roots(path: Path) -> tuple[str, ...]:
    """The folders that may contain a model's files once links are resolved."""
    real = os.path.realpath(path)
    snapshots, repository = os.path.split(os.path.dirname(real))[::-1]
    if snapshots == "snapshots" and os.path.basename(repository).startswith("models--"):
        return real, repository
    return (real,)
