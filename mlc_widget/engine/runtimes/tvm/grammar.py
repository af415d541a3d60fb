"""Follows a grammar along a text with llguidance, and says which tokens it allows next."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from mlc_widget.api.errors import BadRequestError, InternalEngineError
from mlc_widget.engine.runtimes.tvm.distinct_items import DistinctItems, ItemTokens
from mlc_widget.engine.system.imports import import_llguidance
from mlc_widget.engine.text.tokenizer import Tokenizer

Mask = npt.NDArray[np.bool_]

_KEPT: Final = 32
"""The number of compiled grammars that are cached for later requests."""


class Grammar:
    """The state of the grammar of one generation.

    Attributes:
        init_s: The seconds that it took to make.
        seconds: The seconds spent so far on masks and on following the text.
    """

    def __init__(
        self,
        matcher: Any,
        end_ids: frozenset[int],
        *,
        ignore_eos: bool,
        init_s: float,
        distinct: DistinctItems | None = None,
    ) -> None:
        self._matcher = matcher
        self._distinct = distinct
        self._end_ids = end_ids
        self._ignore_eos = ignore_eos
        self._ended = False
        self.init_s = init_s
        self.seconds = 0.0

    def allowed(self, vocab_size: int) -> Mask:
        """Which tokens may come next, (vocab_size,) bool; at least one is true.

        Raises:
            BadRequestError: llguidance gave up, as the grammar is too complex in this state.
            InternalEngineError: No token is allowed.
        """
        started = time.perf_counter()
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        mask = np.unpackbits(bits, count=vocab_size, bitorder="little")
        if self._ignore_eos:
            ends = [i for i in self._end_ids if i < vocab_size and mask[i]]
            if np.count_nonzero(mask) > len(ends):
                mask[ends] = 0
        if self._distinct is not None and not self._matcher.is_error():
            self._distinct.narrow(mask.view(np.bool_))
        self.seconds += time.perf_counter() - started
        if self._matcher.is_error():
            raise BadRequestError(
                "response_format: the grammar allows too many alternatives at this point of the "
                "answer; make it smaller.",
                param="response_format",
            )
        if not mask.any():
            raise InternalEngineError("The grammar allows no token.")
        return mask.view(np.bool_)

    def accept(self, token_id: int) -> bool:
        """Follow the text by one token; return whether the text is now complete.

        Raises:
            InternalEngineError: The token is not allowed.
        """
        started = time.perf_counter()
        if token_id in self._end_ids:
            self._ended = True
        elif not self._matcher.consume_token(token_id):
            raise InternalEngineError(f"The grammar failed: {self._matcher.get_error()}")
        elif self._distinct is not None:
            self._distinct.follow(token_id, self._matcher)
        self.seconds += time.perf_counter() - started
        return self._ended or bool(self._matcher.is_stopped())


class GrammarCompiler:
    """Makes the grammars of one model. May be used from several threads."""

    def __init__(self, tokenizer: Tokenizer, end_ids: Sequence[int]) -> None:
        """Set up the compiler for a model.

        Args:
            tokenizer: The model's tokenizer.
            end_ids: The tokens that end a text.
        """
        self._end_ids = [i for i in dict.fromkeys(end_ids) if 0 <= i < tokenizer.vocab_size]
        self._lock = threading.Lock()
        self._tokenizer = tokenizer
        self._tokens: list[bytes] = []
        self._known: Any = None
        self._items: ItemTokens | None = None
        self._matchers: OrderedDict[tuple[str, str], Any] = OrderedDict()

    def compile(self, grammar: str, *, ignore_eos: bool = False, salt: str = "") -> Grammar:
        """Compile a grammar and return its initial state; this blocks for up to a second.

        Args:
            grammar: A grammar for llguidance: JSON with "grammars", or Lark.
            ignore_eos: Do not end a text that may go on.
            salt: Only what was compiled with the same salt is used again, so that the time tells
                nobody what another has compiled.

        Raises:
            BadRequestError: It is malformed.
            RuntimeUnavailableError: llguidance is not installed.
        """
        started = time.perf_counter()
        with self._lock:
            matcher = self._matchers.pop((salt, grammar), None) or self._make(grammar)
            self._matchers[salt, grammar] = matcher
            while len(self._matchers) > _KEPT:
                self._matchers.popitem(last=False)
            copy = matcher.deep_copy()
        wanted = json.loads(grammar).get("distinct") if grammar.startswith("{") else None
        return Grammar(
            copy,
            frozenset(self._end_ids),
            ignore_eos=ignore_eos,
            init_s=time.perf_counter() - started,
            distinct=DistinctItems(wanted, self._item_tokens(), self._matcher) if wanted else None,
        )

    def _item_tokens(self) -> ItemTokens:
        with self._lock:
            if self._items is None:
                self._items = ItemTokens(self._tokens)
            return self._items

    def _matcher(self, grammar: str) -> Any:
        return import_llguidance().LLMatcher(self._known, grammar, log_level=0)

    def _make(self, grammar: str) -> Any:
        llguidance = import_llguidance()
        if self._known is None:
            vocabulary = _Vocabulary(self._tokenizer, self._end_ids)
            self._tokens = vocabulary.tokens
            self._known = llguidance.LLTokenizer(
                cast("Any", vocabulary), eos_token=self._end_ids or None
            )
        matcher = self._matcher(grammar)
        if not matcher.is_error():
            matcher.compute_bitmask()  # the first mask takes longest; copies reuse it
        if matcher.is_error():
            raise BadRequestError(
                f"response_format: the grammar cannot be used: {matcher.get_error()}",
                param="response_format",
            )
        return matcher


class _Vocabulary:
    """A vocabulary with the interface that llguidance's `TokenizerWrapper` expects."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, end_ids: Sequence[int]) -> None:
        ids = range(tokenizer.vocab_size)
        self._tokenizer = tokenizer
        self.eos_token_id = end_ids[0] if end_ids else 0
        self.tokens = [tokenizer.token_bytes(i) for i in ids]
        self.special_token_ids = [i for i in ids if tokenizer.is_special(i)]

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        return self._tokenizer.encode(text)
