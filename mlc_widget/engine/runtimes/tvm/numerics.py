"""The two modes in which a model can be computed: fast and faithful.

On the built-in model, the error of fast is 0.14 % of the largest logit (root mean square), with no
loss in perplexity (see docs/numerics.md). So fast is the default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlc_widget.api.errors import BadRequestError

if TYPE_CHECKING:
    from mlc_widget.engine.runtimes.tvm.kernels.isa import Isa


@dataclass(frozen=True, slots=True)
class Numerics:
    """What a model's kernels may round.

    Attributes:
        int8: Whether activations are rounded to 8 bits for weights that are codes of 4 or 8 bits,
            if the CPU has integer dot products.
        kv_dtype: The dtype of keys and values in the cache, float16 or float32.
    """

    int8: bool
    kv_dtype: str

    def isa(self, isa: Isa) -> Isa:
        """The instructions that kernels may use: without `int8`, no integer dot products."""
        return isa if self.int8 else dataclasses.replace(isa, dot="")


NUMERICS = {
    "fast": Numerics(int8=True, kv_dtype="float16"),
    "faithful": Numerics(int8=False, kv_dtype="float32"),
}


def numerics_of(config: Mapping[str, Any], kv_dtype: str | None) -> Numerics:
    """The mode that `numerics` of mlc-chat-config.json or `chat_opts` names; by default "fast".

    Args:
        config: mlc-chat-config.json with overrides applied.
        kv_dtype: The dtype of the KV cache; None for that of the mode.

    Raises:
        BadRequestError: There is no mode of that name.
    """
    name = config.get("numerics", "fast")
    if not isinstance(name, str) or name not in NUMERICS:
        raise BadRequestError(
            f"numerics is {name!r}; it must be {' or '.join(NUMERICS)}.",
            param="numerics",
        )
    chosen = NUMERICS[name]
    return dataclasses.replace(chosen, kv_dtype=kv_dtype) if kv_dtype else chosen
