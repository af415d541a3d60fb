"""What a runtime reads a model's weights from, whatever files they lie in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy.typing as npt

from mlc_widget.engine.store.verification import VerifyPolicy

Array: TypeAlias = npt.NDArray[Any]


class WeightRecord(Protocol):
    """One tensor.

    Attributes:
        name: The parameter's name in the architecture.
        shape: Its shape; of a matrix in blocks, its rows and the bytes of a row.
        dtype: Of what is read: a float, ``uint32`` for MLC's codes, ``uint8`` for blocks.
        nbytes: Its bytes on disk.
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
        """The tensor of a parameter; None where the files have none."""

    def layers(self) -> int:
        """How many layers the files have tensors of; 0 where that cannot be told."""

    def read_rows(self, record: Any, pieces: Sequence[tuple[int, int]]) -> Iterator[Array]:
        """A tensor piece by piece.

        Args:
            record: From `find`.
            pieces: First row of each, and the row behind its last.

        Raises:
            ModelFormatError: The file became unreadable or shorter.
        """

    def verify(
        self,
        progress: Callable[[int, int], None] | None = None,
        policy: VerifyPolicy = "always",
        cache_root: Path | None = None,
    ) -> None:
        """Compare the files with their published sums, where there are any.

        Raises:
            ModelFormatError: They differ.
        """

    def tensor_types(self) -> Mapping[str, str] | None:
        """Ggml's type of each tensor, by its name in the file.

        None where the quantization of mlc-chat-config.json holds for all tensors.
        """

    def types_of(self, layer: str) -> Sequence[tuple[str, int]]:
        """Ggml's type and the rows of each tensor of a linear layer, where tensors have types.

        Raises:
            ModelFormatError: The files lack one.
        """

    def close(self) -> None:
        """Let go of the files. Idempotent."""


OpenWeights: TypeAlias = Callable[[], WeightSource]
"""Opens a model's weights.

Raises:
    ModelFormatError: A file is missing, malformed or truncated.
"""
