"""The interface through which a runtime reads a model's weights, whatever their file format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy.typing as npt

from mlc_widget.engine.store.verification import FileIdentity, VerifyPolicy

Array: TypeAlias = npt.NDArray[Any]


class WeightRecord(Protocol):
    """One tensor.

    Attributes:
        name: The parameter's name in the architecture.
        shape: Its shape; for a matrix in blocks, (rows, bytes of a row).
        dtype: The dtype that is read: a float, ``uint32`` for MLC's codes, ``uint8`` for blocks.
        nbytes: Its size on disk in bytes.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def dtype(self) -> str: ...  # noqa: D102
    @property
    def nbytes(self) -> int: ...  # noqa: D102


class WeightSource(Protocol):
    """Named tensors of one model. Reading is safe from several threads at once."""

    @property
    def where(self) -> str:
        """The file to name in messages."""

    def find(self, name: str) -> WeightRecord | None:
        """The tensor of a parameter; None if the files do not have it."""

    def layers(self) -> int:
        """The number of layers with tensors in the files; 0 if unknown."""

    def read_rows(self, record: Any, pieces: Sequence[tuple[int, int]]) -> Iterator[Array]:
        """Read a tensor piece by piece.

        Args:
            record: A record from `find`.
            pieces: The first row of each piece, and the end of the piece.

        Yields:
            The rows, in memory that the next piece may overwrite.

        Raises:
            ModelFormatError: The file became unreadable or shorter.
        """

    def verify(
        self,
        progress: Callable[[int, int], None] | None = None,
        policy: VerifyPolicy = "always",
        cache_root: Path | None = None,
    ) -> None:
        """Compare the files with their published checksums, if there are any.

        Raises:
            ModelFormatError: They differ.
        """

    def identities(self) -> Mapping[Path, FileIdentity]:
        """The files that have all its tensors, as they are now; empty if that is not known."""

    def tensor_types(self) -> Mapping[str, str] | None:
        """The ggml type of each tensor, by its name in the file.

        None if the quantization in mlc-chat-config.json applies to all tensors.
        """

    def types_of(self, layer: str) -> Sequence[tuple[str, int]]:
        """The ggml type and the rows of each tensor of a linear layer, if tensors have types.

        Raises:
            ModelFormatError: The files lack a tensor.
        """

    def close(self) -> None:
        """Close the files. Idempotent."""


OpenWeights: TypeAlias = Callable[[], WeightSource]
"""Opens a model's weights.

Raises:
    ModelFormatError: A file is missing, malformed or truncated.
"""
