"""Rows of tokens for training, made by worker processes while the model trains."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tools.demo import corpus
from tools.demo.tokenizer import END_OF_TEXT_ID, chat_segments

Rows = tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]

_tokenizer: Tokenizer | None = None


def _start(tokenizer_json: str) -> None:
    global _tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _tokenizer = Tokenizer.from_str(tokenizer_json)


def make_rows(tokenizer: Tokenizer, seed: int, count: int, length: int) -> Rows:
    """Rows packed with whole conversations; the last one of a row is cut off.

    Returns:
        tokens: (count, length + 1) uint16; conversations after the first of a row begin with the
            end-of-text token.
        learn: the same shape; True where a token is part of an answer.
    """
    tokens = np.zeros((count, length + 1), dtype=np.uint16)
    learn = np.zeros((count, length + 1), dtype=np.bool_)
    dialogues = corpus.training(seed)
    for row in range(count):
        at = 0
        while at < length + 1:
            if at:
                tokens[row, at] = END_OF_TEXT_ID
                at += 1
            pieces = chat_segments(next(dialogues))
            texts = [piece for piece, _ in pieces if isinstance(piece, str)]
            encoded = iter(tokenizer.encode_batch_fast(texts))
            for piece, learnt in pieces:
                ids = [piece] if isinstance(piece, int) else next(encoded).ids
                ids = ids[: length + 1 - at]
                tokens[row, at : at + len(ids)] = ids
                learn[row, at : at + len(ids)] = learnt
                at += len(ids)
    return tokens, learn


def _work(job: tuple[int, int, int]) -> Rows:
    assert _tokenizer is not None
    return make_rows(_tokenizer, *job)


def stream_rows(
    tokenizer_json: str, *, seed: int, count: int, length: int, blocks: int, workers: int
) -> Iterator[Rows]:
    """Blocks of rows, in the same order whatever the number of workers."""
    jobs = ((seed + 1 + block, count, length) for block in range(blocks))
    if workers == 0:
        tokenizer = Tokenizer.from_str(tokenizer_json)
        for job in jobs:
            yield make_rows(tokenizer, *job)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _start, (tokenizer_json,)) as pool:
        # A window, because Pool.imap would take in all jobs at once.
        ahead = deque(pool.apply_async(_work, (job,)) for job in islice(jobs, 4 * workers))
        while ahead:
            yield ahead.popleft().get()
            ahead.extend(pool.apply_async(_work, (job,)) for job in islice(jobs, 1))
