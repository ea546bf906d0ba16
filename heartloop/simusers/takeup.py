"""How a reply takes up the person's words: in the company they were said in, or plugged in.

A word keeps its company when it stands beside the same word as in the person's messages, articles
aside and persons made alike ("rang me" and "rang you"). People who listen keep some company, and
use a noun as a noun; templates filled with key words do neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from heartloop.simusers.phrases import STOPWORDS, stem, words

_DETERMINERS = frozenset(
    "the a an this these those my your his her its our their no every each another whose".split()
)
_PERSONS = frozenset("i you he she we they me him us them it".split())
_SUBJECTS = frozenset("i you he she we they who".split())
_HELPERS = frozenset("to will would can could should shall may might must did do does".split())
_PREPOSITIONS = frozenset("of in on at for with by from about into without under".split())
_STATES = frozenset("feel feels feeling felt sound sounds are is am was were".split())
_ENDS = ".!?"


@dataclass(frozen=True, slots=True)
class Takeup:
    """The person's words in a reply: how many, in their company, out of place, newly joined."""

    taken: int = 0
    kept: int = 0
    misplaced: int = 0
    joined: int = 0


@lru_cache(maxsize=2048)
def _uses(text: str) -> tuple[frozenset[tuple[str, str]], dict[str, set[str]]]:
    """The neighbours in a message, and for each content stem whether it was noun or verb."""
    tokens = [".", *words(text), "."]
    kinds: dict[str, set[str]] = {}
    for left, word, right in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if _carries(word):
            found = kinds.setdefault(stem(word), set())
            found |= _kind(left, right)
    return frozenset(_neighbours(tokens)), kinds


def _carries(word: str) -> bool:
    return len(word) > 2 and word not in STOPWORDS and word not in _ENDS


def _kind(left: str, right: str) -> set[str]:
    """What a word is beside its neighbours: a noun with or without article, a verb, or unclear."""
    if left in _DETERMINERS:
        return {"noun"}
    if left in _SUBJECTS or left in _HELPERS:
        return {"verb"}
    if left in _PREPOSITIONS:
        return {"bare"}
    return {"verb"} if right in _DETERMINERS or right in _SUBJECTS else set()


def _plain(tokens: Iterable[str]) -> list[str]:
    """Words without articles; persons made alike, content as stems."""
    return [
        "i" if t in _PERSONS else t if t in STOPWORDS or t in _ENDS else stem(t)
        for t in tokens
        if t not in _DETERMINERS
    ]


def _neighbours(tokens: Sequence[str]) -> set[tuple[str, str]]:
    plain = _plain(tokens)
    return {(a, b) for a, b in pairwise(plain) if a != "." and b != "."}


def takeup(reply: str, said: Sequence[str]) -> Takeup:
    """How `reply` takes up what the person said."""
    return _takeup(reply, tuple(said))


@lru_cache(maxsize=2048)
def _takeup(reply: str, said: tuple[str, ...]) -> Takeup:
    company: set[tuple[str, str]] = set()
    kinds: dict[str, set[str]] = {}
    for pairs, found in map(_uses, said):
        company |= pairs
        for word, kind in found.items():
            kinds.setdefault(word, set()).update(kind)
    tokens = [".", *words(reply), "."]
    plain = _plain(tokens)
    taken, kept = set[str](), set[str]()
    for left, word, right in zip(plain, plain[1:], plain[2:], strict=False):
        if word in kinds and word not in STOPWORDS:
            taken.add(word)
            if (left, word) in company or (word, right) in company:
                kept.add(word)
    misplaced = joined = 0
    for left, word, right in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if _carries(word) and stem(word) in kinds:
            misplaced += _is_misplaced(left, word, right, kinds[stem(word)])
            both = _carries(right) and stem(right) in kinds
            joined += both and (stem(word), stem(right)) not in company
    return Takeup(len(taken), len(kept), misplaced, joined)


def _is_misplaced(left: str, word: str, right: str, kinds: set[str]) -> bool:
    """A verb after an article, a noun after a person, a noun bare of the article it had."""
    if _carries(right) or not kinds:
        return "verb" not in kinds and bool(kinds) and left in _SUBJECTS | _HELPERS
    if left in _DETERMINERS:
        return kinds == {"verb"}
    if left in _SUBJECTS or left in _HELPERS:
        return "verb" not in kinds
    if left in _PREPOSITIONS:
        bare = kinds == {"noun"} and not word.endswith("s")
        return bare or (kinds == {"verb"} and not word.endswith("ing"))
    return left in _STATES and not word.endswith(("ed", "ing"))


def is_plugged(reply: str, said: Sequence[str], heard: Sequence[str]) -> bool:
    """Whether the person's words stand in the reply, or in it and those before, as key words."""
    now = takeup(reply, said)
    if 3 * now.kept > now.taken:
        return False
    if now.misplaced >= max(2, 0.5 * now.taken) or now.joined >= max(3, 0.5 * now.taken):
        return True
    if now.taken < 1 or now.kept or not heard:
        return False
    lately = [now, *(takeup(text, said) for text in heard[-3:])]
    taken, kept = sum(t.taken for t in lately), sum(t.kept for t in lately)
    wrong = sum(t.misplaced + t.joined // 2 for t in lately)
    return kept <= 0.15 * taken and (taken >= 6 or (taken >= 4 and wrong >= 2))


def frame(reply: str, said: Sequence[str]) -> list[str]:
    """The words of a reply, with "_" for what is the person's own."""
    own: set[str] = set().union(*(_uses(m)[1] for m in said)) if said else set()
    out: list[str] = []
    for token in words(reply):
        if token in _ENDS or token in _DETERMINERS:
            continue
        mark = "_" if _carries(token) and stem(token) in own else token
        if mark != "_" or out[-1:] != ["_"]:
            out.append(mark)
    return out
