"""Which page of the KV cache belongs to whom, and which beginnings of sequences are still there.

Pages hold `page_size` tokens. A page that a sequence gave back keeps its content, and can serve
another sequence that begins alike, until it is needed for something else (the page longest unused
first). A page's content is named by all tokens up to its end, so it is found by walking from page
to page; matching compares tokens, never hashes alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

_ROOT = 0


@dataclass(slots=True)
class _Content:
    """What a page holds: `tokens`, after the pages that `parent` names."""

    uid: int
    parent: int
    tokens: tuple[int, ...]


@dataclass(slots=True)
class Match:
    """The longest beginning of a prompt that the cache holds.

    Attributes:
        pages: Its full pages, each now held once more.
        parent: Names the content up to their end, for `PagePool.publish`.
        partial: A page whose first `partial_tokens` tokens continue it, to be copied; also held.
        partial_tokens: How many.
    """

    pages: list[int] = field(default_factory=list)
    parent: int = _ROOT
    partial: int | None = None
    partial_tokens: int = 0


class PagePool:
    """Owns the numbers 0 … `size` - 1 of the pages. Not safe for threads: the scheduler's alone."""

    def __init__(self, size: int, page_size: int, *, reuse: bool = True) -> None:
        self.size, self.page_size, self.reuse = size, page_size, reuse
        self._references = [0] * size
        self._blank = list(range(size - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._content: dict[int, _Content] = {}
        self._children: dict[int, dict[tuple[int, ...], int]] = {}
        self._next_uid = _ROOT + 1

    @property
    def available(self) -> int:
        """Pages that `allocate` can still give."""
        return len(self._blank) + len(self._cached)

    @property
    def held(self) -> int:
        """Pages that somebody holds."""
        return self.size - self.available

    def allocate(self) -> int | None:
        """A page for new content, held once; None if all are held."""
        if self._blank:
            page = self._blank.pop()
        elif self._cached:
            page, _ = self._cached.popitem(last=False)
            self._forget(page)
        else:
            return None
        self._references[page] = 1
        return page

    def release(self, page: int) -> None:
        """Let go of a page once."""
        if self._references[page] <= 0:
            raise RuntimeError(f"page {page} was released more often than held")
        self._references[page] -= 1
        if self._references[page] == 0:
            if page in self._content:
                self._cached[page] = None
            else:
                self._blank.append(page)

    def publish(self, page: int, parent: int, tokens: tuple[int, ...]) -> int:
        """Say what a held page now holds, so that others can find it.

        Returns:
            The name of the content up to the page's end, the `parent` of what follows.
        """
        siblings = self._children.setdefault(parent, {})
        twin = siblings.get(tokens)
        if twin is not None:
            return self._content[twin].uid
        if page in self._content:
            self._forget(page)
            siblings = self._children.setdefault(parent, {})
        uid = self._next_uid
        self._next_uid += 1
        self._content[page] = _Content(uid, parent, tokens)
        siblings[tokens] = page
        return uid

    def match(self, tokens: Sequence[int]) -> Match:
        """Find and hold the longest beginning of `tokens` that is here, but never all of them."""
        match = Match()
        if not self.reuse:
            return match
        limit, at = len(tokens) - 1, 0
        while at + self.page_size <= limit:
            page = self._children.get(match.parent, {}).get(tuple(tokens[at : at + self.page_size]))
            if page is None:
                break
            self._hold(page)
            match.pages.append(page)
            match.parent = self._content[page].uid
            at += self.page_size
        rest = tokens[at : min(limit, at + self.page_size)]
        for content, page in self._children.get(match.parent, {}).items():
            common = _common(content, rest)
            if common > match.partial_tokens:
                match.partial, match.partial_tokens = page, common
        if match.partial is not None:
            self._hold(match.partial)
        return match

    def check(self) -> None:
        """Raise RuntimeError unless every page is in exactly one place."""
        free = [*self._blank, *self._cached]
        held = [p for p in range(self.size) if self._references[p] > 0]
        if sorted([*free, *held]) != list(range(self.size)):
            raise RuntimeError(f"pages are lost or double: free {sorted(free)}, held {held}")
        for page, content in self._content.items():
            if self._children.get(content.parent, {}).get(content.tokens) != page:
                raise RuntimeError(f"page {page} cannot be found by its content")
        if sum(map(len, self._children.values())) != len(self._content):
            raise RuntimeError("content without a page")

    def _hold(self, page: int) -> None:
        if self._references[page] == 0:
            del self._cached[page]
        self._references[page] += 1

    def _forget(self, page: int) -> None:
        content = self._content.pop(page)
        siblings = self._children[content.parent]
        del siblings[content.tokens]
        if not siblings:
            del self._children[content.parent]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
