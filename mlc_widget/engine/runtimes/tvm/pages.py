"""The pages of the KV cache: which are in use, and which still hold a prefix of a sequence.

A page holds `page_size` tokens. A released page keeps its content, and can be used by another
sequence with the same prefix, until it is needed for something else (least recently used first). A
page's content is identified by all tokens up to its end, so it is found by walking from page to
page; tokens are compared, not only hashes. The walk begins at a salt: texts with different salts
share nothing, as their first pages have different parents. So vLLM's `cache_salt` works, too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Name: TypeAlias = int | str
"""Of the content up to the end of a page: a number; of no content: the text's salt."""


@dataclass(slots=True)
class _Content:
    """The content of a page: `tokens`, which follow the content that `parent` names."""

    uid: int
    parent: Name
    tokens: tuple[int, ...]


@dataclass(slots=True)
class Match:
    """The longest prefix of a prompt that is in the cache.

    Attributes:
        parent: The name of the content up to the end of its full pages, for `PagePool.publish`.
        pages: Its full pages, each held by the match.
        partial: A page whose first `partial_tokens` tokens continue it, to be copied; also held.
        partial_tokens: The number of these tokens.
    """

    parent: Name
    pages: list[int] = field(default_factory=list)
    partial: int | None = None
    partial_tokens: int = 0


class PagePool:
    """Manages pages by their numbers, 0 … `size` - 1. Only the scheduler's thread may use it."""

    def __init__(self, size: int, page_size: int, *, reuse: bool = True) -> None:
        self.size, self.page_size, self.reuse = size, page_size, reuse
        self._references = [0] * size
        self._blank = list(range(size - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._content: dict[int, _Content] = {}
        self._children: dict[Name, dict[tuple[int, ...], int]] = {}
        self._next_uid = 1

    @property
    def available(self) -> int:
        """The number of pages that `allocate` can still return."""
        return len(self._blank) + len(self._cached)

    @property
    def held(self) -> int:
        """The number of pages that are held."""
        return self.size - self.available

    def allocate(self) -> int | None:
        """Take a page for new content, which is then held once; None if all pages are held."""
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
        """Release a page that is held once less afterwards."""
        if self._references[page] <= 0:
            raise RuntimeError(f"page {page} was released more often than held")
        self._references[page] -= 1
        if self._references[page] == 0:
            if page in self._content:
                self._cached[page] = None
            else:
                self._blank.append(page)

    def publish(self, page: int, parent: Name, tokens: tuple[int, ...]) -> int:
        """Record the content of a held page, so that `match` finds it.

        Returns:
            The name of the content up to the page's end, which is the next page's `parent`.
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

    def match(self, tokens: Sequence[int], salt: str = "") -> Match:
        """Find and hold the longest prefix of `tokens` in the cache, but never all of them.

        Only what was published with the same salt is found.
        """
        match = Match(salt)
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
