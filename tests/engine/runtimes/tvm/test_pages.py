"""The page pool, compared with a simple model of it."""

from __future__ import annotations

import random

import pytest

from mlc_widget.engine.runtimes.tvm.pages import PagePool


def fill(pool: PagePool, tokens: list[int], salt: str = "") -> list[int]:
    """Hold and publish pages for `tokens`, reusing what is there; gives the pages."""
    match = pool.match(tokens, salt)
    pages, parent = list(match.pages), match.parent
    if match.partial is not None:
        pool.release(match.partial)
    for at in range(len(pages) * pool.page_size, len(tokens), pool.page_size):
        page = pool.allocate()
        assert page is not None
        pages.append(page)
        parent = pool.publish(page, parent, tuple(tokens[at : at + pool.page_size]))
    return pages


def release(pool: PagePool, pages: list[int]) -> None:
    for page in reversed(pages):
        pool.release(page)


def matched(pool: PagePool, tokens: list[int], salt: str = "") -> int:
    """The number of tokens that a match finds; it is released at once."""
    match = pool.match(tokens, salt)
    pool.check()
    release(pool, match.pages)
    if match.partial is not None:
        pool.release(match.partial)
    return len(match.pages) * pool.page_size + match.partial_tokens


def test_pages_are_given_once_until_there_are_none():
    pool = PagePool(3, 4)
    assert {pool.allocate() for _ in range(3)} == {0, 1, 2}
    assert pool.allocate() is None
    assert (pool.available, pool.held) == (0, 3)
    pool.release(1)
    assert pool.allocate() == 1
    pool.check()


def test_releasing_too_often_is_a_bug_that_is_told():
    pool = PagePool(2, 4)
    page = pool.allocate()
    pool.release(page)
    with pytest.raises(RuntimeError, match="more often"):
        pool.release(page)


def test_what_has_another_salt_is_not_found():
    pool = PagePool(8, 4)
    tokens = list(range(10))
    release(pool, fill(pool, tokens, "a"))
    assert matched(pool, tokens, "a") == 9
    assert matched(pool, tokens, "b") == matched(pool, tokens) == 0
    release(pool, fill(pool, tokens))
    release(pool, fill(pool, tokens[:8], "b"))
    assert [matched(pool, tokens, salt) for salt in ("", "a", "b", "c")] == [9, 9, 8, 0]


def test_the_longest_beginning_is_found_but_never_all():
    pool = PagePool(8, 4)
    tokens = list(range(10))
    release(pool, fill(pool, tokens))
    assert pool.held == 0
    assert matched(pool, tokens) == 9
    assert matched(pool, [*tokens, 50, 51]) == 10
    assert matched(pool, [*tokens[:8], 50]) == 8
    assert matched(pool, [*tokens[:6], 50]) == 6
    assert matched(pool, tokens[:4]) == 3
    assert matched(pool, [*tokens[:3], 50]) == 3
    assert matched(pool, [50, *tokens]) == 0
    assert matched(pool, tokens[:1]) == 0


def test_equal_pages_after_different_beginnings_are_different():
    pool = PagePool(8, 4)
    release(pool, fill(pool, [1, 1, 1, 1, 7, 7, 7, 7]))
    release(pool, fill(pool, [2, 2, 2, 2, 8, 8, 8, 8]))
    assert matched(pool, [2, 2, 2, 2, 7, 7, 7, 7, 0]) == 4


def test_a_page_in_use_is_shared():
    pool = PagePool(4, 4)
    first = fill(pool, list(range(8)))
    second = fill(pool, [*range(8), 9])
    assert second[:2] == first
    release(pool, first)
    assert pool.held == 3
    release(pool, second)
    assert pool.held == 0
    pool.check()


def test_the_longest_unused_goes_first_and_ends_before_beginnings():
    pool = PagePool(4, 4)
    old, new = [1] * 8, [2] * 8
    release(pool, fill(pool, old))
    release(pool, fill(pool, new))
    held = [pool.allocate()]
    assert matched(pool, [*old, 0]) == 4
    held.append(pool.allocate())
    # Matching refreshed what was left of `old`.
    assert (matched(pool, [*old, 0]), matched(pool, [*new, 0])) == (4, 4)
    held.append(pool.allocate())
    held.append(pool.allocate())
    assert (matched(pool, [*old, 0]), matched(pool, [*new, 0])) == (0, 0)
    pool.check()
    assert len(set(held)) == 4


def test_without_reuse_nothing_is_found():
    pool = PagePool(4, 4, reuse=False)
    release(pool, fill(pool, list(range(8))))
    assert matched(pool, list(range(9))) == 0


@pytest.mark.parametrize("seed", range(20))
def test_random_use_loses_nothing_and_finds_only_what_is_there(seed):
    rng = random.Random(seed)
    pool = PagePool(12, 4)
    content: dict[int, tuple[int, ...]] = {}  # page -> all tokens up to its end
    live: list[list[int]] = []
    for _ in range(300):
        tokens = [rng.randrange(2) for _ in range(rng.randrange(1, 14))]
        match = pool.match(tokens)
        for i, page in enumerate(match.pages):
            assert content[page] == tuple(tokens[: (i + 1) * 4])
        at = len(match.pages) * 4
        if match.partial is not None:
            end = at + match.partial_tokens
            assert content[match.partial][:end] == tuple(tokens[:end])
            assert end < len(tokens)
            pool.release(match.partial)
        pages, parent = list(match.pages), match.parent
        while at < len(tokens):
            page = pool.allocate()
            if page is None:
                break
            pages.append(page)
            parent = pool.publish(page, parent, tuple(tokens[at : at + 4]))
            at += 4
            content[page] = tuple(tokens[:at])
        pool.check()
        live.append(pages)
        while live and (rng.random() < 0.5 or pool.available < 4):
            release(pool, live.pop(rng.randrange(len(live))))
            pool.check()
    for pages in live:
        release(pool, pages)
    pool.check()
    assert pool.held == 0
