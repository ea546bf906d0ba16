"""Words of acute risk, found by the rules of `risk.toml`, which says how a rule is read.

Weights of words (`likeness.py`) judge a message as a whole: they find what no rule knows, and let
pass what only looks like a rule.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from heartloop.chat import likeness
from heartloop.simusers.phrases import words

_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_SENTENCE = re.compile(r"[.!?\u2026\n\u3002\uff01\uff1f]+")
_COMMA = re.compile(r"[,;:()\u2013\u2014\uff0c\u3001\uff1b\uff1a]| - ")
_BREAK = re.compile(r"[,~]| (?:but|because|so|though|while|and i|yet|then) ")
_GAPS = {"..": "{0,4}", "...": "{0,9}"}
_UNLESS = {
    "indirect": ("trifles",),
    "soft": ("trifles", "everyday"),
    "bare": ("trifles", "everyday", "grief"),
}
_WRITER = frozenset("i me my myself mine kms".split())
_OTHERS = frozenset("he she they him her them us his their".split())
_NEGATIONS = "(?!(?:not|never|no|nor) )"


class Level(StrEnum):
    """How plainly a risk is put."""

    EXPLICIT = "explicit"
    INDIRECT = "indirect"


class Risk(NamedTuple):
    """Words of acute risk in a message."""

    level: Level
    language: str


class _Rule(NamedTuple):
    """A rule: what it looks for, what else the sentence must hold, words it can not do without."""

    wanted: str
    beside: tuple[str, ...] = ()
    heads: tuple[frozenset[str], ...] = ()

    def may_match(self, spoken: frozenset[str]) -> bool:
        return not any(head.isdisjoint(spoken) for head in self.heads)

    def find(self, text: str) -> Iterator[re.Match[str]]:
        if all(_compiled(expression).search(text) for expression in self.beside):
            yield from _compiled(self.wanted).finditer(text)

    def mask(self, text: str, sign: str) -> str:
        return _compiled(self.wanted).sub(sign, text)


class _Sentence(NamedTuple):
    script: str
    text: str
    spoken: frozenset[str]


def language(text: str) -> str:
    """The language of a text: "zh" where it holds a Chinese character, else "en"."""
    return "zh" if _CHINESE.search(text) else "en"


def risk(text: str) -> Risk | None:
    """Words of acute risk for the writer, the most plainly put first; None where there are none.

    Rules and weights judge together: the surer a rule is, the calmer a message must read to be let
    pass. What tells of somebody else's risk says nothing of the writer's to the weights.
    """
    found = by_rules(text)
    own = [sentence for sentence in sentences(text) if not _tells_of_another(sentence)]
    script = "zh" if any(sentence.script == "zh" for sentence in own) else "en"
    alone, indirect, explicit = likeness.weights().limits[script]
    limit = {None: alone, Level.INDIRECT: indirect, Level.EXPLICIT: explicit}
    if likeness.score(_whole(_told(own)), _span(found)) <= limit[found and found.level]:
        return None
    return found or Risk(Level.INDIRECT, script)


def risk_of_another(text: str) -> str | None:
    """The language in which a message tells that somebody else is at acute risk now; or None.

    A sentence is read as if that person spoke: of "he says he will kill himself" becomes "i says i
    will kill myself", which the explicit rules know. What the writer says of themselves is set
    apart, so that no rule takes it for the other's.
    """
    return next((s.script for s in sentences(text) if _tells_of_another(s)), None)


def _tells_of_another(sentence: _Sentence) -> bool:
    heard = _as_the_other(sentence)
    if heard is None or _is_calm(sentence):
        return False
    sign = "(?<!\\S)(i|~i) " if sentence.script == "en" else "(\u6211|~)"
    return any(
        _compiled(sign).findall(heard.text[: found.end()])[-1:] not in (["~i"], ["~"])
        and not _denied(heard, found.start(), Level.EXPLICIT)
        for found in _matches(heard, "explicit")
    )


def _names_another(sentence: _Sentence) -> bool:
    if sentence.script == "zh":
        return bool(_compiled(_chinese_family("near")).search(sentence.text))
    return not frozenset(_family("near")).isdisjoint(sentence.spoken)


def _as_the_other(sentence: _Sentence) -> _Sentence | None:
    """A sentence as somebody near the writer would say it; None where it speaks of nobody."""
    if not _names_another(sentence):
        return None
    if sentence.script == "zh":
        near = _compiled(_chinese_family("near"))
        text = near.sub("#", sentence.text)
        text = text.replace("\u6211", "~").replace("#", "\u6211")
        return _without_idioms(sentence._replace(text=text))
    near_words = frozenset(_family("near"))
    table: dict[str, str] = _data()["en"]["another"]
    heard = ("i" if w in near_words else table.get(w, w) for w in sentence.text.split())
    return _without_idioms(_sentence(" ".join(heard)))


def _is_calm(sentence: _Sentence) -> bool:
    """Whether what is told of another is over, a story, or no risk of suicide."""
    told = [table for table in ("aside", "another_calm", "another_past") if _any(sentence, table)]
    recent = _topic(sentence.script, "recent").search(sentence.text)
    return (told == ["another_past"] and not recent) or (bool(told) and told != ["another_past"])


def _any(sentence: _Sentence, table: str) -> bool:
    return any(True for _ in _matches(sentence, table))


def by_rules(text: str) -> Risk | None:
    """What the rules alone find."""
    told = _told(sentences(text))
    for level in Level:
        for sentence in told:
            if _threatens(sentence, level):
                return Risk(level, sentence.script)
    return None


def likeness_spans(text: str) -> list[list[int]]:
    """Where the weights of a message lie, by which `likeness.py` judges it, span by span."""
    return likeness.spans(_whole(_told(sentences(text))), _span(by_rules(text)))


def _span(found: Risk | None) -> int:
    """How many sentences are judged together: one where a rule knows of some that may tell."""
    return 1 if found else likeness.SPAN


def _told(spoken: Iterable[_Sentence]) -> list[_Sentence]:
    """The sentences that may tell of risk, without phrases that mean none."""
    return [masked for sentence in spoken if (masked := _masked(sentence))]


def _whole(told: list[_Sentence]) -> list[tuple[str, str]]:
    """What is judged as a whole: all but what befell others."""
    return [
        (sentence.script, sentence.text)
        for sentence in told
        if not (_names_another(sentence) and _any(sentence, "another_calm"))
    ]


def sentences(text: str) -> Iterator[_Sentence]:
    """The sentences of a text, as rules read them."""
    for part in _SENTENCE.split(text):
        if language(part) == "zh":
            plain = _COMMA.sub(",", part.translate(_simplified()))
            yield _Sentence("zh", re.sub(r"\s+", "", plain), frozenset())
        elif spoken := _english(part):
            yield _sentence(" ".join(spoken))


def _sentence(text: str) -> _Sentence:
    return _Sentence("en", f" {text} ", frozenset(text.split()))


def _english(part: str) -> list[str]:
    """The words of an English sentence: lower case, usual spelling, "," between its clauses."""
    part = re.sub(r"\b(?:\w[ .-]){3,}\w\b", lambda found: re.sub(r"\W", "", found[0]), part)
    spelled: list[str] = []
    for clause in _COMMA.split(_undisguised(part)):
        clause_words = [word for word in words(clause) if word[0] not in ".!?"]
        spelled += [w for word in clause_words for w in _spelled(word).split()] + [","]
    return spelled[:-1] if len(spelled) > 1 else []


def _undisguised(text: str) -> str:
    """A text with signs and digits inside words read as the letters they stand for."""
    return re.sub(
        r"(?<=[a-z])[1!0@$3*](?=[a-z])",
        lambda found: {"1": "i", "!": "i", "0": "o", "@": "a", "$": "s", "3": "e", "*": "i"}[
            found[0]
        ],
        text,
        flags=re.I,
    )


def _spelled(word: str) -> str:
    """A word as it is usually written; words that ran together are taken apart."""
    short = re.sub(r"(.)\1{2,}", r"\1", word)
    spelling: dict[str, str] = _data()["en"]["spelling"]
    if (known := spelling.get(word) or spelling.get(short)) is not None:
        return known
    if slip := _slip(short):
        return slip
    if len(short) > 9:
        for joined, apart in _run_together().items():
            if joined in short and short != joined + "ly":
                return short.replace(joined, f" {apart} ")
    return short


def _masked(sentence: _Sentence) -> _Sentence | None:
    """A sentence without the phrases that mean no risk; None where all of it is an aside."""
    aside = _any(sentence, "aside")
    if aside and not _topic(sentence.script, "present").search(sentence.text):
        return None
    return _without_idioms(sentence)


def _without_idioms(sentence: _Sentence) -> _Sentence:
    text = sentence.text
    for rule in _rules(sentence.script, "masked"):
        if rule.may_match(sentence.spoken):
            text = rule.mask(text, "~ " if sentence.script == "en" else "~")
    return sentence._replace(text=text)


def _threatens(sentence: _Sentence, level: Level) -> bool:
    if _speaks_of_others(sentence):
        return False
    tables = _UNLESS if level is Level.INDIRECT else {"explicit": ()}
    return any(
        not _denied(sentence, found.start(), level)
        for table, topics in tables.items()
        if not any(_topic(sentence.script, topic).search(sentence.text) for topic in topics)
        for found in _matches(sentence, table)
    )


def _speaks_of_others(sentence: _Sentence) -> bool:
    """Whether an English sentence names others and not the writer."""
    return not sentence.spoken.isdisjoint(_OTHERS) and sentence.spoken.isdisjoint(_WRITER)


def _matches(sentence: _Sentence, table: str) -> Iterator[re.Match[str]]:
    """What the rules of a table match in a sentence."""
    for rule in _rules(sentence.script, table):
        if rule.may_match(sentence.spoken):
            yield from rule.find(sentence.text)


def _denied(sentence: _Sentence, start: int, level: Level) -> bool:
    """Whether the clause takes back what it says from `start` on, or tells it of another."""
    before = _BREAK.split(sentence.text[:start])[-1]
    if _denial(sentence.script).search(before):
        return True
    after = _BREAK.split(sentence.text[start:])[0].split()
    told_of_others = level is Level.EXPLICIT and _others(sentence.script).search(before)
    return bool(told_of_others) and _WRITER.isdisjoint(after)


def _slip(word: str) -> str | None:
    """The word of "slips" that this one is but for one letter."""
    known = _slips()
    shorter = (w for w in _without_a_letter(word) if w in known)
    found = known.get(word) or next((known[w] for w in shorter), None)
    return None if found and word == f"{found}s" else found  # several of them are no slip


@cache
def _slips() -> dict[str, str]:
    """Words one may slip at, and each with a letter left out."""
    slips: list[str] = _data()["en"]["slips"].split()
    return {w: word for word in slips for w in (word, *_without_a_letter(word))}


def _without_a_letter(word: str) -> Iterator[str]:
    return (word[:at] + word[at + 1 :] for at in range(len(word)))


@cache
def _compiled(expression: str) -> re.Pattern[str]:
    """An expression, compiled when a sentence first needs it: few sentences need many."""
    return re.compile(expression)


@cache
def _data() -> dict[str, Any]:
    return tomllib.loads(files("heartloop.chat").joinpath("risk.toml").read_text("utf-8"))


@cache
def _simplified() -> dict[int, int]:
    return str.maketrans(_data()["zh"]["traditional"], _data()["zh"]["simplified"])


@cache
def _run_together() -> dict[str, str]:
    phrases = _alternatives(_data()["en"]["run_together"])
    apart = {phrase.replace(" ", ""): phrase.replace("wanna", "want to") for phrase in phrases}
    return apart


@cache
def _rules(script: str, table: str) -> tuple[_Rule, ...]:
    # A row goes on in lines that begin with a space.
    rows = re.sub("\n +", "", _data()[script]["rules"][table])
    lines = [row for row in rows.split("\n") if row and not row.startswith("# ")]
    return tuple(map(_rule if script == "en" else _chinese_rule, lines))


@cache
def _topic(script: str, name: str) -> re.Pattern[str]:
    row: str = _data()[script]["rules"][name]
    if script == "zh":
        return re.compile("".join(row.split()))
    return re.compile(rf"(?<!\S){_choice(_alternatives(row))[0]}")


@cache
def _denial(script: str) -> re.Pattern[str]:
    return re.compile(_data()[script]["denial"])


@cache
def _others(script: str) -> re.Pattern[str]:
    row: str = _data()[script]["rules"]["others"]
    if script == "zh":
        return re.compile(f"(?:{''.join(row.split())})[^我]{{0,6}}$")
    return re.compile(f"(?<!\\S){_choice(_alternatives(row))[0]}(?:(?!(?:i|me|my) )\\S+ ){{0,4}}$")


def _chinese_rule(row: str) -> _Rule:
    filled = re.sub("<([a-z_]+)>", lambda found: _chinese_family(found[1]), row)
    first, *beside = filled.replace("..", "[^,]{0,6}").split(" & ")
    return _Rule(first, tuple(beside))


def _rule(row: str) -> _Rule:
    read = [_sequence(side) for side in row.split(" & ")]
    first, *beside = (rf"(?<!\S){expression}" for expression, _ in read)
    return _Rule(first, tuple(beside), tuple(head for _, heads in read for head in heads))


def _sequence(row: str) -> tuple[str, list[frozenset[str]]]:
    """The expression of a row of parts, and the words each part that must be there begins with."""
    expression, heads = "", []
    for part in _split(row.strip(), " "):
        piece, head = _part(part)
        expression += piece
        if head:
            heads.append(head)
    return expression, heads


def _part(part: str) -> tuple[str, frozenset[str]]:
    if part in _GAPS:
        return rf"(?:{_NEGATIONS}\S+ ){_GAPS[part]}", frozenset()
    if part == "~":
        return f"{_choice(_family('fillers'))[0]}{{0,4}}", frozenset()
    if part == "$":
        return "$", frozenset()
    if part.endswith("?"):
        return _part(part[:-1])[0] + "?", frozenset()
    if part.startswith("(") and part.endswith(")"):
        return _choice(_split(part[1:-1], "|"))
    if len(choices := _split(part, "|")) > 1:
        return _choice(choices)
    if part.startswith("<"):
        return _choice(_family(part[1:-1]))
    word = re.escape(part.rstrip("*"))
    return (rf"{word}\S* ", frozenset()) if part.endswith("*") else (f"{word} ", frozenset([part]))


def _choice(options: list[str]) -> tuple[str, frozenset[str]]:
    read = [_sequence(option) for option in options]
    firsts = [heads[0] if heads else frozenset() for _, heads in read]
    every: frozenset[str] = frozenset().union(*firsts) if all(firsts) else frozenset()
    return f"(?:{'|'.join(expression for expression, _ in read)})", every


def _family(name: str) -> list[str]:
    return _alternatives(_data()["en"]["families"][name])


def _chinese_family(name: str) -> str:
    return "".join(_data()["zh"]["families"][name].split())


def _alternatives(row: str) -> list[str]:
    return _split(" ".join(row.split()), "|")


def _split(row: str, separator: str) -> list[str]:
    """A row split where no bracket is open."""
    pieces, depth = [""], 0
    for sign in row:
        depth += (sign == "(") - (sign == ")")
        if sign == separator and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += sign
    return [piece for piece in map(str.strip, pieces) if piece]
