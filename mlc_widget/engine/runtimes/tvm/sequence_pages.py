"""The pages that sequences hold: taken for their tokens, published for others, given back."""

from __future__ import annotations

from collections.abc import Iterable

from mlc_widget.engine.runtimes.tvm.executor import Executor
from mlc_widget.engine.runtimes.tvm.pages import PagePool
from mlc_widget.engine.runtimes.tvm.sequence import Sequence


class SequencePages:
    """Moves pages between a pool and sequences. Only the scheduler's thread may use it.

    Args:
        pool: The pages.
        executor: Copies the content of pages.
    """

    def __init__(self, pool: PagePool, executor: Executor) -> None:
        self._pool, self._executor = pool, executor

    def is_being_computed(self, sequence: Sequence, running: Iterable[Sequence]) -> bool:
        """Whether a running prompt is about to fill pages that this one can share.

        So a common prefix is computed once for the choices of a request or for several requests.
        """
        if not self._pool.reuse or sequence.scoring:
            return False
        usable = len(sequence.tokens) - 1
        for other in running:
            if other.remaining > 1 and usable - other.computed >= self._pool.page_size:
                end = other.computed + self._pool.page_size
                salts = other.sampling.cache_salt, sequence.sampling.cache_salt
                if salts[0] == salts[1] and other.tokens[:end] == sequence.tokens[:end]:
                    return True
        return False

    def take_prefix(self, sequence: Sequence, running: list[Sequence]) -> bool:
        """Give a sequence its cached prefix; return False if its prompt does not fit now."""
        # Tokens whose log-probabilities are requested must be computed, not taken from the cache.
        known = sequence.tokens[:1] if sequence.scoring else sequence.tokens
        match = self._pool.match(known, sequence.sampling.cache_salt)
        size = self._pool.page_size
        needed = len(sequence.tokens) // size + 1 - len(match.pages)
        promised = sum(max(0, len(s.tokens) // size + 1 - len(s.pages)) for s in running)
        if needed + promised > self._pool.available and running:
            for page in match.pages:
                self._pool.release(page)
            if match.partial is not None:
                self._pool.release(match.partial)
            return False
        sequence.pages = match.pages
        sequence.parent, sequence.published = match.parent, len(match.pages)
        sequence.computed = len(match.pages) * size
        if match.partial is not None:
            copy = self._pool.allocate()
            if copy is not None:
                self._executor.copy_page(match.partial, copy)
                sequence.pages.append(copy)
                sequence.computed += match.partial_tokens
            self._pool.release(match.partial)
        return True

    def hold(self, sequence: Sequence, tokens: int) -> bool:
        """Give a sequence the pages of its first `tokens`; return False if they run out."""
        needed = -(-tokens // self._pool.page_size)
        while len(sequence.pages) < needed:
            page = self._pool.allocate()
            if page is None:
                return False
            sequence.pages.append(page)
        return True

    def hold_draft(self, sequence: Sequence, wanted: int, running: int) -> int:
        """How many of the `wanted` tokens after a decoding sequence's last one its pages can hold.

        More pages are allocated only if there are enough for all sequences that run.
        """
        size = self._pool.page_size
        while (room := len(sequence.pages) * size - len(sequence.tokens)) < wanted:
            if self._pool.available <= running:
                return room
            page = self._pool.allocate()
            assert page is not None
            sequence.pages.append(page)
        return wanted

    def publish(self, sequence: Sequence) -> None:
        """Publish pages that became full, and the beginning of a prompt's last page."""
        if not self._pool.reuse:
            return
        size = self._pool.page_size
        while (sequence.published + 1) * size <= sequence.computed:
            at = sequence.published
            tokens = tuple(sequence.tokens[at * size : (at + 1) * size])
            sequence.parent = self._pool.publish(sequence.pages[at], sequence.parent, tokens)
            sequence.published += 1
        if sequence.computed == sequence.prompt_tokens:
            self._publish_rest(sequence)

    def give_back(self, sequence: Sequence) -> None:
        """Publish what a sequence's pages hold, and release them."""
        self._publish_rest(sequence)
        # Release the end first, so that the end of a text is evicted before its beginning.
        for page in reversed(sequence.pages):
            self._pool.release(page)
        sequence.pages = []
        sequence.computed = sequence.published = 0
        sequence.parent = sequence.sampling.cache_salt

    def _publish_rest(self, sequence: Sequence) -> None:
        """Publish the tokens in a sequence's last page."""
        at = sequence.published
        rest = tuple(sequence.tokens[at * self._pool.page_size : sequence.computed])
        if self._pool.reuse and rest:
            self._pool.publish(sequence.pages[at], sequence.parent, rest)
