"""How much each input of a model's matrices matters, measured on a text.

An error of a weight is multiplied by the weight's input, so errors count by the mean square of that
input, which is measured here: the float model reads the text. Its weights are read in pieces, as in
the conversion that follows. For the sizes of inputs, a few hundred tokens are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.store.float_model import FloatModel
from mlc_widget.engine.store.formats.hf_folder import SafetensorsModel
from mlc_widget.engine.store.formats.hf_weights import Parameter

Array = npt.NDArray[Any]

MOST_TOKENS: Final = 256
"""The tokens of a text that are read; twice as many change little."""
_LARGEST_TEXT: Final = 1 << 20
_LEAST: Final = 0.02
"""What is added to all importances, whose mean is 1, for inputs that are 0 in the text."""


def calibration_text(path: Path | None = None) -> str:
    """A text to measure with.

    Args:
        path: A text file; None for the one in this package, which has a little of everything.

    Raises:
        BadRequestError: The file cannot be read, or is not a text.
    """
    if path is None:
        return files("mlc_widget.engine.store").joinpath("calibration.txt").read_text("utf-8")
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_TEXT + 1)
        if len(data) > _LARGEST_TEXT:
            raise ValueError(f"it has more than {_LARGEST_TEXT >> 20} MiB; its beginning is enough")
        text = data.decode("utf-8")
        if not text.strip():
            raise ValueError("it is empty")
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise BadRequestError(
            f"calibration = {str(path)!r}: {what}. Give a text file in UTF-8.", param="calibration"
        ) from error
    return text


class ImportanceRun:
    """One reading of a text by a float model.

    Args:
        model: The model's files, checked.
        parameters: Its parameters.
        kind: transformers' `model_type`.
        config: MLC's ``model_config``.
        on_bytes: Called with the number of bytes that were read.
    """

    def __init__(
        self,
        model: SafetensorsModel,
        parameters: Sequence[Parameter],
        kind: str,
        config: Mapping[str, Any],
        on_bytes: Callable[[int], object],
    ) -> None:
        self._float = FloatModel(model, parameters, kind, config, on_bytes, self._record)
        self._found: dict[str, Array] = {}

    def measure(self, ids: Sequence[int]) -> dict[str, Array]:
        """The importance of each input, (inputs,) float32 with a mean of about 1, by matrix.

        A matrix is left out if its inputs are not finite, or all 0.
        """
        with np.errstate(all="ignore"):
            self._float.hidden_states(ids)
        return self._found

    @property
    def nbytes(self) -> int:
        """The number of bytes of weights to read."""
        return self._float.nbytes

    def _record(self, name: str, inputs: Array) -> None:
        squares = np.square(inputs).mean(axis=0)
        mean = squares.mean()
        if np.isfinite(mean) and mean > 0:
            self._found[name] = (squares / mean + np.float32(_LEAST)).astype(np.float32)
