"""Earlier prompts, found by letters in their order: "psng" finds "passing the exam"."""

from __future__ import annotations

from collections.abc import Sequence

_LOOKED_AT = 2_000
"""Characters of a prompt that are searched, so that a pasted book does not slow typing."""


def ranked(query: str, prompts: Sequence[str]) -> list[str]:
    """The prompts that hold every word of `query`, the tightest match first.

    A word matches where its letters stand in their order, in any case. Equal matches keep their
    order, so that of prompts given newest first the newest leads.
    """
    words = query.casefold().split()
    found = []
    for prompt in prompts:
        text = prompt[:_LOOKED_AT].casefold()
        gaps = [_gap(word, text) for word in words]
        if None not in gaps:
            found.append((sum(gap or 0 for gap in gaps), prompt))
    return [prompt for _, prompt in sorted(found, key=lambda pair: pair[0])]


def _gap(word: str, text: str) -> int | None:
    """Least number of other characters between the letters of a word; None where one is missing."""
    if word in text:
        return 0
    least: int | None = None
    start = text.find(word[0])
    while start >= 0:
        at = start
        for letter in word[1:]:
            at = text.find(letter, at + 1)
            if at < 0:
                return least
        gap = at - start + 1 - len(word)
        least = gap if least is None else min(least, gap)
        start = text.find(word[0], start + 1)
    return least
