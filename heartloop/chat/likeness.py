"""How much a message reads like those in which people told of risk: weights of its words.

The weights of `likeness.bin` are learnt by `benchmarks/crisis_weights.py`. A word or a piece of one
finds its weight by its hash, so that no list of words is kept.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from math import sqrt
from typing import NamedTuple

SIZE = 1 << 16
"""Weights; several features may share one."""
HEADER = struct.Struct("<ddd32s")
"""What a file begins with: bias, a weight's unit, the threshold, and the SHA-256 of what taught it.

A signed byte for each weight follows.
"""
_PIECE = 4
"""Letters of a piece of a word; shorter words have none."""


class Weights(NamedTuple):
    """What `likeness.bin` holds."""

    bias: float
    unit: float
    threshold: float
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


def is_like(sentences: Iterable[tuple[str, str]]) -> bool:
    """Whether a message reads like risk."""
    known = weights()
    found = places(sentences)
    score = sum(known.values[place] for place in found) * known.unit / sqrt(max(len(found), 1))
    return score + known.bias > known.threshold


@cache
def weights() -> Weights:
    """The weights that are shipped."""
    data = files("heartloop.chat").joinpath("likeness.bin").read_bytes()
    bias, unit, threshold, taught = HEADER.unpack_from(data)
    return Weights(bias, unit, threshold, taught, memoryview(data)[HEADER.size :].cast("b"))


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
    """Characters in rows of up to three."""
    row = f"^{text}$"
    for at in range(len(row)):
        yield from (f"z{row[at : at + n]}" for n in (1, 2, 3) if at + n <= len(row))
