"""Words and phrases: a tokenizer for chat English and a matcher for phrase tables.

A phrase is a row of words. `a|b` is a choice, `_` one word, `*` up to three words within a
sentence. Contractions are written out, so "it's not" is matched by "it is not".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?|[.!?]+|…|\n+")
_STOPS = frozenset(".!?")
_GAP = 3
_IRREGULAR = {
    "can't": ("can", "not"), "cannot": ("can", "not"), "won't": ("will", "not"),
    "shan't": ("shall", "not"), "ain't": ("is", "not"), "let's": ("let", "us"),
    "y'all": ("you", "all"), "gonna": ("going", "to"), "wanna": ("want", "to"),
    "gotta": ("got", "to"), "kinda": ("kind", "of"), "u": ("you",), "ur": ("your",),
}  # fmt: skip
_ENDINGS = {
    "n't": "not", "'re": "are", "'ve": "have", "'ll": "will", "'d": "would", "'m": "am",
}  # fmt: skip
_IS = frozenset("it that this what he she there here who how where when".split())
_TYPOGRAPHY = str.maketrans({"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"'})


@lru_cache(maxsize=8192)
def _expand(word: str) -> tuple[str, ...]:
    """A written word as the words it stands for."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    for ending, full in _ENDINGS.items():
        if word.endswith(ending) and len(word) > len(ending):
            return (word[: -len(ending)], full)
    if word.endswith("'s"):
        stem = word[:-2]
        return (stem, "is") if stem in _IS else (stem,)
    return (word,)


def words(text: str) -> list[str]:
    """Lower-case words with contractions written out; sentence ends are "." "!" "?" tokens."""
    tokens: list[str] = []
    for found in _WORD.findall(text.lower().translate(_TYPOGRAPHY)):
        if found[0] in ".!?\u2026\n":
            if tokens and tokens[-1] not in _STOPS:
                tokens.append("?" if "?" in found else "!" if "!" in found else ".")
        else:
            tokens.extend(_expand(found))
    return tokens


def function_pairs(text: str) -> list[tuple[str, str]]:
    """The neighbouring words of which both are function words."""
    tokens = words(text)
    return [(a, b) for a, b in pairwise(tokens) if a in STOPWORDS and b in STOPWORDS]


def content(tokens: Iterable[str]) -> frozenset[str]:
    """The stems of the words that carry content."""
    return frozenset(stem(t) for t in tokens if len(t) > 2 and t not in STOPWORDS)


@lru_cache(maxsize=16384)
def stem(word: str) -> str:
    """A word without its commonest endings; the same for inflections, not a dictionary form."""
    for ending in ("ingly", "edly", "ings", "ing", "ies", "ied", "ed", "es", "ly", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)] + ("y" if ending in ("ies", "ied") else "")
            break
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "aeiou":
        word = word[:-1]
    return word


Piece = frozenset[str] | None
"""A choice of words, or None for a gap of up to three."""


class Phrases:
    """A table of phrases under labels, found in one pass over the words."""

    def __init__(self, table: Mapping[str, Sequence[str]]) -> None:
        """Compile the table; its order of labels is kept."""
        self.labels = tuple(table)
        self._by_first: dict[str, list[tuple[int, int, tuple[Piece, ...]]]] = {}
        number = 0
        for index, label in enumerate(self.labels):
            for phrase in table[label]:
                self._add(index, number, phrase)
                number += 1

    def _add(self, label: int, number: int, phrase: str) -> None:
        pieces: list[Piece] = []
        for part in phrase.split():
            pieces.append(None if part == "*" else frozenset(part.split("|")))
        first = pieces[0]
        if not first or "_" in first:
            raise ValueError(f"a phrase must start with a word, got {phrase!r}")
        for word in first:
            self._by_first.setdefault(word, []).append((label, number, tuple(pieces)))

    def count(self, tokens: Sequence[str]) -> list[int]:
        """How many different phrases of each label occur, in the order of `labels`."""
        counts = [0] * len(self.labels)
        seen: set[int] = set()
        for at, token in enumerate(tokens):
            for label, number, pieces in self._by_first.get(token, ()):
                if number not in seen and _matches(pieces, 1, tokens, at + 1):
                    seen.add(number)
                    counts[label] += 1
        return counts


def _matches(pieces: tuple[Piece, ...], piece: int, tokens: Sequence[str], at: int) -> bool:
    """Whether `pieces[piece:]` match at `tokens[at:]`."""
    while piece < len(pieces):
        wanted = pieces[piece]
        if wanted is None:
            return any(
                _matches(pieces, piece + 1, tokens, at + skip)
                for skip in range(_GAP + 1)
                if not _STOPS.intersection(tokens[at : at + skip])
            )
        if at >= len(tokens):
            return False
        word = tokens[at]
        if word not in wanted and not ("_" in wanted and word not in _STOPS):
            return False
        piece, at = piece + 1, at + 1
    return True


STOPWORDS = frozenset(
    """a about after again all almost also always am an and another any anything are around as ask
    asked at away back be because been before being both but by came can come comes could day days
    did do does doing done down each else even ever every everything far feel feeling feelings feels
    felt few first for from full gave get gets getting give go goes going gone good got great had
    happen happened happens hard has have having he hear heard help her here hers herself him his
    how i if in into is it its itself just keep keeps kept kind know last least less let like little
    long look lot made make makes making many may maybe me mean means might mine more most much must
    my myself need needs never next no nobody none nor not nothing now of off often oh okay on once
    one only or other others our out over own part people person perhaps place put quite rather
    really right said same saw say saying says see seem seems she should since so some somebody
    someone something soon sorry sort sound sounds still such sure take takes talk tell than thank
    thanks that the their them then there these they thing things think this those though thought
    through time to today told too took tried try two under until up us use used very want wanted
    wants was way we well went were what when where whether which while who whole why will with
    without wonder word words would yeah year years yes yet you your yours yourself""".split()
)
