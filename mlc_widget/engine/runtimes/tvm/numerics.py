"""How exactly a model is computed: fast or faithful.

docs/numerics.md has what fast costs: on the built-in model 0.14 % of the largest logit (root mean
square), and nothing of the perplexity. So fast is the default.
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
        int8: 4-bit weights meet activations of 8 bits (where the CPU has integer dot products).
        kv_dtype: Of keys and values in the cache, float16 or float32.
    """

    int8: bool
    kv_dtype: str

    def isa(self, isa: Isa) -> Isa:
        """The instructions that kernels may use with these numerics: no int8 dot without `int8`."""
        return isa if self.int8 else dataclasses.replace(isa, dot="")


NUMERICS = {
    "fast": Numerics(int8=True, kv_dtype="float16"),
    "faithful": Numerics(int8=False, kv_dtype="float32"),
}


def numerics_of(config: Mapping[str, Any], kv_dtype: str | None) -> Numerics:
    """What `numerics` of mlc-chat-config.json (or `chat_opts`) says; "fast" if it says nothing.

    Args:
        config: mlc-chat-config.json with overrides applied.
        kv_dtype: The dtype of the cache if it is not to be the mode's.

    Raises:
        BadRequestError: It is no mode.
    """
    name = config.get("numerics", "fast")
    if not isinstance(name, str) or name not in NUMERICS:
        raise BadRequestError(
            f"numerics is {name!r}; the tvm runtime knows {' and '.join(NUMERICS)}.",
            param="numerics",
        )
    chosen = NUMERICS[name]
    return dataclasses.replace(chosen, kv_dtype=kv_dtype) if kv_dtype else chosen
