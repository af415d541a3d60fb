"""A running request: turns mlc_llm's stream into `GenerationEvent`s."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Final

from mlc_widget.api.errors import BadRequestError, InternalEngineError, MLCEngineError
from mlc_widget.engine.runtimes.base import (
    FinishReason,
    GenerationEvent,
    GenerationStats,
    Sampling,
    TokenLogprob,
)
from mlc_widget.engine.runtimes.mlc_llm import translate
from mlc_widget.engine.runtimes.mlc_llm.translate import Piece, TokenIds
from mlc_widget.engine.text.detokenizer import StopStrings
from mlc_widget.engine.text.tokenizer import Tokenizer

_CLOSE_S: Final = 2.0


class RequestStream:
    """Reads an engine's stream in a task of its own, so that a request can end if the engine dies.

    After mlc_llm's own `abort`, the reader of a stream waits forever. Cancelling the reading task
    instead aborts the request in the engine and ends the stream.

    Args:
        source: mlc_llm's stream.
        prompt_tokens: The number of tokens of the prompt.
        sampling: The request's parameters.
        tokenizer: The model's tokenizer.
        token_ids: Finds the ids of the tokens in log-probabilities.
        on_sign: Called for each item of the stream, as a sign of life.
    """

    def __init__(
        self,
        source: AsyncGenerator[Piece, None],
        prompt_tokens: int,
        sampling: Sampling,
        tokenizer: Tokenizer,
        token_ids: TokenIds,
        on_sign: Callable[[], None],
    ) -> None:
        self._source = source
        self._prompt_tokens = prompt_tokens
        self._sampling = sampling
        self._tokenizer = tokenizer
        self._token_ids = token_ids
        self._on_sign = on_sign
        self._queue: asyncio.Queue[Piece | BaseException | None] = asyncio.Queue()
        self._stops = StopStrings(sampling.stop)
        self._text = ""
        self._tokens = 0
        self._started = time.monotonic()
        self._first_at: float | None = None
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async with contextlib.aclosing(self._source) as pieces:
                async for piece in pieces:
                    self._on_sign()
                    self._queue.put_nowait(piece)
            self._queue.put_nowait(None)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # raised in `events`
            self._queue.put_nowait(error)

    def fail(self, error: BaseException) -> None:
        """End the stream with an error."""
        self._queue.put_nowait(error)
        self._task.cancel()

    def abort(self) -> None:
        """End the stream with finish reason ``abort``."""
        self._queue.put_nowait(Piece(finish_reason="abort", usage={}))
        self._task.cancel()

    async def close(self) -> None:
        """Abort the request in the engine if it is still running."""
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=_CLOSE_S)

    async def events(self) -> AsyncGenerator[GenerationEvent, None]:
        """Iterate over the events; the last one has the finish reason and the statistics.

        Raises:
            MLCEngineError: The error given to `fail`, or mlc_llm's.
        """
        reason: FinishReason | None = None
        while True:
            piece = await self._queue.get()
            if isinstance(piece, BaseException):
                raise _request_error(piece) from piece
            if piece is None or piece.usage is not None:
                break
            self._first_at = self._first_at or time.monotonic()
            reason = translate.finish_reason(piece.finish_reason) if piece.finish_reason else None
            self._text += piece.text
            entries = translate.logprobs(piece.logprobs, self._token_ids)
            self._tokens += len(entries)
            if reason == "stop":
                entries = self._without_stop_token(entries)
            text = self._stops.push(piece.text)
            stopped = self._stops.stopped is not None
            if reason is not None and not stopped:
                text += self._stops.flush()
            if text or entries:
                yield self._event(text, entries)
            if stopped:
                yield self._last("stop", None)
                return
        usage = piece.usage if piece is not None and piece.usage else None
        if piece is not None and piece.finish_reason == "abort":
            reason = "abort"
        yield self._last(reason or "stop", usage)

    def _without_stop_token(self, entries: list[TokenLogprob]) -> list[TokenLogprob]:
        """Drop the token that ended the text; mlc_llm reports it, but leaves out its text."""
        stops = self._sampling.stop_token_ids
        return entries[:-1] if entries and entries[-1].token_id in stops else entries

    def _event(self, text: str, entries: list[TokenLogprob]) -> GenerationEvent:
        return GenerationEvent(
            text=text, token_ids=translate.known_ids(entries), logprobs=tuple(entries)
        )

    def _last(self, reason: FinishReason, usage: object) -> GenerationEvent:
        if isinstance(usage, dict) and usage.get("completion_tokens"):
            found = translate.stats(usage, prompt_tokens=self._prompt_tokens)
            if self._sampling.max_tokens is not None:  # it counts tokens that it withdrew, too
                counted = min(found.completion_tokens, self._sampling.max_tokens)
                found = replace(found, completion_tokens=counted)
        else:
            found = self._own_stats()
        return GenerationEvent(text="", finish_reason=reason, stats=found)

    def _own_stats(self) -> GenerationStats:
        """Count tokens ourselves: mlc_llm gives no statistics for a text that we ended."""
        now = time.monotonic()
        first = self._first_at or now
        counted = self._tokens or len(self._tokenizer.encode(self._text))
        return GenerationStats(
            prompt_tokens=self._prompt_tokens,
            cached_tokens=0,
            completion_tokens=counted,
            queue_s=0.0,
            prefill_s=first - self._started,
            decode_s=now - first,
        )


def _request_error(error: BaseException) -> MLCEngineError:
    """The `MLCEngineError` for an exception that a request raised in mlc_llm."""
    if isinstance(error, MLCEngineError):
        return error
    if type(error).__name__ in ("BadRequestError", "ValidationError"):
        return BadRequestError(f"mlc_llm refuses the request: {error}")
    return InternalEngineError(f"mlc_llm failed: {type(error).__name__}: {error}")
