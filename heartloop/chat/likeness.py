"""How much a message reads like those that tell of risk: weights of its words.

The weights of `likeness.bin` are learnt by `benchmarks/crisis_weights.py`. A word or a piece of one
finds its weight by its hash, so that no list of words is kept.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from math import sqrt
from typing import NamedTuple

SIZE = 1 << 18
"""Weights; several features may share one."""
HEADER = struct.Struct("<dd6d32s")
"""What a file begins with: bias, a weight's unit, limits, and the SHA-256 of what taught it.

A signed byte for each weight follows.
"""
SPAN = 3
"""Sentences judged together: what one of them tells would drown in a longer message."""
_PIECE = 4
"""Letters of a piece of a word; shorter words have none."""


class Weights(NamedTuple):
    """What `likeness.bin` holds."""

    bias: float
    unit: float
    limits: Mapping[str, tuple[float, ...]]
    """By script, the scores above which a message is taken for risk: where the rules find none,
    find it put indirectly, and find it put explicitly."""
    taught: bytes
    """SHA-256 of the lines they were learnt from, their features and the number of weights."""
    values: memoryview


def places(sentences: Iterable[tuple[str, str]]) -> list[int]:
    """Where the weights of a message lie.

    Args:
        sentences: Script and text of each, as `risk.py` reads them.
    """
    found = {
        zlib.crc32(feature.encode()) % SIZE
        for script, text in sentences
        for feature in (_chinese(text) if script == "zh" else _english(text.split()))
    }
    return sorted(found)


def spans(sentences: Iterable[tuple[str, str]], size: int = SPAN) -> list[list[int]]:
    """Where the weights of so many sentences in a row lie; of all, where they are fewer.

    Args:
        sentences: As for `places`.
        size: Sentences of a span.
    """
    apart = [places([sentence]) for sentence in sentences]
    starts = range(max(len(apart) - size + 1, 1))
    return [sorted(set().union(*apart[at : at + size])) for at in starts]


def score(sentences: Iterable[tuple[str, str]], size: int = SPAN) -> float:
    """How much a message reads like risk where it does so most: above 0, more than not.

    Args:
        sentences: As for `places`.
        size: Sentences that are judged together.
    """
    known = weights()
    return known.bias + known.unit * max(
        sum(known.values[place] for place in span) / sqrt(max(len(span), 1))
        for span in spans(sentences, size)
    )


@cache
def weights() -> Weights:
    """The weights that are shipped."""
    data = files("heartloop.chat").joinpath("likeness.bin").read_bytes()
    bias, unit, *limits, taught = HEADER.unpack_from(data)
    values = memoryview(data)[HEADER.size :].cast("b")
    return Weights(bias, unit, {"en": tuple(limits[:3]), "zh": tuple(limits[3:])}, taught, values)


def _english(spoken: list[str]) -> Iterator[str]:
    """Words in rows of up to three, pairs of words apart, and pieces of words."""
    row = ["^", *spoken, "$"]
    for at, word in enumerate(row):
        yield from (f"w{' '.join(row[at : at + n])}" for n in (1, 2, 3) if at + n <= len(row))
        yield from (f"s{word} {row[at + n]}" for n in (2, 3) if at + n < len(row))
        if len(word) > _PIECE:
            whole = f"<{word}>"
            yield from (f"c{whole[n : n + _PIECE]}" for n in range(len(whole) - _PIECE + 1))


def _chinese(text: str) -> Iterator[str]:
    """Characters in rows of up to three, and pairs of characters apart."""
    row = f"^{text}$"
    for at, sign in enumerate(row):
        yield from (f"z{row[at : at + n]}" for n in (1, 2, 3) if at + n <= len(row))
        yield from (f"y{sign}{row[at + n]}" for n in (2, 3, 4) if at + n < len(row))
