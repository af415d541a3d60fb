"""`forward_tokens_and_sample`: takes raw tokens and returns the next token."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from mlc_widget.api.errors import UnsupportedFieldError
from mlc_widget.api.request_values import token_ids
from mlc_widget.engine.model import LoadedModel


async def forward_and_sample(model: LoadedModel, input_ids: Sequence[int]) -> int:
    """Append `input_ids` to the tokens forwarded since the last reset, and sample the next one.

    The sampled token becomes part of the context only when it is forwarded itself. The runtime's
    prefix cache avoids computing earlier tokens again.

    Raises:
        BadRequestError: There are no ids, or one is outside the vocabulary.
        ContextLengthExceededError: The context is full.
        UnsupportedFieldError: The runtime does not report which tokens it samples.
    """
    input_ids = token_ids("input_ids", input_ids)
    model.check_ids("input_ids", input_ids)
    async with model.forward_lock:
        context = [*model.forwarded, *input_ids]
        model.check_context("input_ids", len(context))
        sampling = replace(
            model.sampling({}, stop_at_template=False),
            max_tokens=1,
            ignore_eos=True,
            # With log-probabilities, all runtimes report the token and not only its text.
            logprobs="logprobs" in model.runtime.capabilities.request_fields,
        )
        events = model.runtime.generate(context, sampling, request_id=f"forward-{id(context)}")
        sampled: list[int] = []
        async with contextlib.aclosing(events):
            async for event in events:
                sampled += event.token_ids
        if not sampled:
            raise UnsupportedFieldError(
                f"forward_tokens_and_sample: the {model.runtime.name} runtime does not report "
                "which tokens it samples.",
                param="input_ids",
            )
        model.forwarded[:] = context
        return sampled[0]
