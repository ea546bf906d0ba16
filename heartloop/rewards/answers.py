"""Verifiers of task answers: a question and an answer in, a `Score` out.

A wrong answer, or none, scores 0; None is kept for what could not be checked. A percent sign
divides by a hundred, always and on both sides, so no verifier forgives a factor of 100 unless the
question asks for an answer in percent.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import cache
from importlib import metadata
from typing import Protocol

from pydantic import Field

from heartloop.errors import InvalidInput
from heartloop.types import Score, Value


class Question(Value):
    """A task with one right answer, in whichever of several ways it may be written."""

    id: str
    text: str
    answers: tuple[str, ...] = Field(min_length=1)
    verifier: str = "exact"
    """Name of the verifier, or an import path."""
    choices: tuple[str, ...] = ()
    """What there is to choose from, as the question writes it; lettered from A."""
    unit: str = ""
    """Of the answer: may be left out, must not be another one."""
    tolerance: float = Field(0.0, ge=0)
    """Largest absolute difference that counts as equal."""


class Verifier(Protocol):
    """Checks one answer to one question."""

    @property
    def id(self) -> str:
        """Name and version, e.g. "numeric/1.0": part of every score."""
        ...

    def __call__(self, question: Question, text: str) -> Score:
        """1 for right, 0 for wrong, None for "could not be checked"."""
        ...


@dataclass(frozen=True)
class Check:
    """A named verifier over the final answer of a text."""

    name: str
    function: Callable[[Question, str], Score]
    version: str = "1.0"
    """Changes with any verdict."""
    library: str = ""
    """Distribution whose version decides verdicts too."""

    @property
    def id(self) -> str:
        """As "numeric/1.0"; with the library, where there is one."""
        beside = f"+{self.library}/{_installed(self.library)}" if self.library else ""
        return f"{self.name}/{self.version}{beside}"

    def __call__(self, question: Question, text: str) -> Score:
        """The score of the final answer; a text without one is wrong."""
        answer = final_answer(text)
        if not answer:
            return Score(value=0.0, why="no final answer found")
        return self.function(question, answer)


@cache
def _installed(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "none"


_MARK = re.compile(
    r"^\W*(?:####|a\s*:|(?:the )?(?:final )?answer(?: is)?\s*[:=]|the (?:final )?answer is)"
    r"\s*(.+)$",
    re.IGNORECASE | re.MULTILINE,
)
_IN_LINE = re.compile(r"the (?:final )?answer is:?\s*(.+?)[.!]?\s*$", re.IGNORECASE | re.MULTILINE)


def final_answer(text: str) -> str | None:
    r"""The answer a text ends with: the last `\boxed{}`, "A: ...", "#### ..."; or its only line.

    None where a text of several lines marks no answer: its last number would be a guess.
    """
    if boxed := _boxed(text):
        return boxed
    for pattern in (_MARK, _IN_LINE):
        if found := pattern.findall(text):
            return str(found[-1]).strip()
    lines = text.strip().splitlines()
    return lines[0].strip() if len(lines) == 1 else None


def _boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` holds, its braces balanced."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for at in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth < 0:
            return text[begin:at].strip()
    return None


def canonical(text: str) -> str:
    """The final answer in a form in which equal answers of a vote are equal strings."""
    answer = final_answer(text) or text
    number = _number(answer)
    return str(number) if number is not None else plain(answer)


def plain(text: str) -> str:
    """Lower case, single spaces, no quotes around and no stop at the end."""
    return " ".join(text.casefold().split()).strip("\"'`*$ ").rstrip(".!?").strip("\"'`*$ ")


def _verdict(right: bool, why: str) -> Score:
    return Score(value=float(right), why="" if right else why)


def exact(question: Question, answer: str) -> Score:
    """Equal to an accepted answer but for case, spaces, quotes and a final stop."""
    right = plain(answer) in map(plain, question.answers)
    return _verdict(right, f"{answer!r:.80} is no accepted answer")


_LETTER = re.compile(r"\W*\(?([A-Z])(?:\)|[.:](?=\s|$)|\W*$)")


def choice(question: Question, answer: str) -> Score:
    """The letter of an option, or the words of one; a letter that begins a word is no choice."""
    picked, gold = _option(question, answer), _option(question, question.answers[0])
    if gold is None:
        raise InvalidInput(f"{question.answers!r} is no option of question {question.id!r}")
    return _verdict(picked == gold, f"{answer!r:.80} is not option {gold}")


def _option(question: Question, answer: str) -> int | None:
    """The number of the option that an answer names."""
    words = [plain(option) for option in question.choices]
    if plain(answer) in words:
        return words.index(plain(answer))
    found = _LETTER.match(answer.strip())
    index = string.ascii_uppercase.index(found[1]) if found else len(words)
    return index if index < len(words) else None


_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>[-+\u2212]?)\s?[$\u20ac\u00a3]?\s?(?P<sign2>-?)"
    r"(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?P<part>\.\d+)?(?:[eE](?P<power>[-+]?\d{1,3}))?"
    r"(?:\s?/\s?(?P<under>\d+))?"
    r"(?P<rest>\s*\\?%|\s*[a-zA-Z\u00b0]+)?"
)


def _numbers(text: str) -> list[tuple[Fraction, str]]:
    """Every number of a text with the unit that follows it."""
    found = []
    for match in _NUMBER.finditer(text.replace("\\,", "").replace("{,}", ",")):
        if match["whole"] is None and match["part"] is None:
            continue
        digits = (match["whole"] or "0").replace(",", "") + (match["part"] or "")
        value = Fraction(digits) * Fraction(10) ** int(match["power"] or 0)
        if match["under"]:
            if not int(match["under"]):
                continue
            value /= int(match["under"])
        negative = match["sign"] in ("-", "\u2212") or match["sign2"] == "-"
        unit = (match["rest"] or "").strip().lstrip("\\")
        found.append((-value if negative else value, _unit(unit)))
    return found


def _number(text: str, unit: str = "") -> Fraction | None:
    """The last number of a text; percent are hundredths unless percent are the unit asked for."""
    found = _numbers(text)
    if not found:
        return None
    value, suffix = found[-1]
    return value / 100 if suffix == "%" != _unit(unit) else value


def numeric(question: Question, answer: str) -> Score:
    """Equal to the number asked for, within the question's tolerance."""
    golds = [_number(gold, question.unit) for gold in question.answers]
    if None in golds:
        raise InvalidInput(f"question {question.id!r} expects a number, has {question.answers!r}")
    value = _number(answer, question.unit)
    if value is None:
        return Score(value=0.0, why=f"no number in {answer!r:.80}")
    suffix = _numbers(answer)[-1][1]
    if question.unit and suffix and suffix != _unit(question.unit):
        return Score(value=0.0, why=f"expected {question.unit!r}, got {suffix!r}")
    slack = Fraction(question.tolerance)
    right = any(abs(value - gold) <= slack for gold in golds if gold is not None)
    return _verdict(right, f"{answer!r:.80} is not {question.answers[0]!r}")


_UNITS = {
    word: line.split()[0]
    for line in (
        "% percent", "sec s second", "min minute", "hour h hr", "metre m meter", "gram g",
        "mm millimetre millimeter", "cm centimetre centimeter", "km kilometre kilometer",
        "kg kilogram", "litre l liter", "\u00b0 degree deg",
    )
    for word in line.split()
}  # fmt: skip
"""The words for a unit, each with the one that stands for all of them."""


def _unit(word: str) -> str:
    """A unit by one name, in whichever number and spelling it is written."""
    plain_ = word.casefold()
    single = plain_ if plain_ in _UNITS else plain_.removesuffix("s")
    return _UNITS.get(single, single)


def maths(question: Question, answer: str) -> Score:
    """Mathematically equal to the expression asked for (math-verify, in a process of its own)."""
    from heartloop.rewards.maths import equal

    if exact(question, answer).value == 1 or _close(question, answer):
        return Score(value=1.0)
    for gold in question.answers:
        found = equal(gold, answer)
        if found is None:
            return Score(value=None, why=f"could not compare {answer!r:.80} with {gold!r:.80}")
        if found:
            return Score(value=1.0)
    return Score(value=0.0, why=f"{answer!r:.80} does not equal {question.answers[0]!r:.80}")


def _close(question: Question, answer: str) -> bool:
    """Whether two plain numbers are within a tolerance the question gives."""
    value, golds = _number(answer), map(_number, question.answers)
    return (
        value is not None
        and question.tolerance > 0
        and any(
            abs(value - gold) <= Fraction(question.tolerance) for gold in golds if gold is not None
        )
    )


def regex(question: Question, answer: str) -> Score:
    """Matches a pattern from end to end, case aside."""
    try:
        right = any(re.fullmatch(p, answer.strip(), re.IGNORECASE) for p in question.answers)
    except re.error as error:
        raise InvalidInput(
            f"question {question.id!r} expects a pattern, has {question.answers!r}: {error}"
        ) from error
    return _verdict(right, f"{answer!r:.80} does not match")


def contains(question: Question, answer: str) -> Score:
    """Has an accepted answer in it, as whole words."""
    right = any(_has(answer, gold) for gold in question.answers)
    return _verdict(right, f"{answer!r:.80} holds no accepted answer")


def _has(text: str, phrase: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(plain(phrase))}(?!\w)", plain(text)))


def exact_set(question: Question, answer: str) -> Score:
    """The same items in whatever order, parted by commas."""
    right = any(_items(answer) == _items(gold) for gold in question.answers)
    return _verdict(right, f"{answer!r:.80} lists other items")


def _items(text: str) -> Counter[str]:
    return Counter(plain(item) for item in re.split(r",|\band\b", text) if plain(item))


def token_f1(question: Question, answer: str) -> Score:
    """Overlap of words with the best accepted answer (SQuAD, Rajpurkar et al. 2016)."""
    return Score(value=max(_f1(answer, gold) for gold in question.answers))


def _f1(one: str, other: str) -> float:
    a, b = (Counter(re.findall(r"\w+", text.casefold())) for text in (one, other))
    shared = (a & b).total()
    return 2 * shared / (a.total() + b.total()) if shared else 0.0


class Grade(StrEnum):
    """The three grades of a factual answer (SimpleQA, arXiv 2411.04368)."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    NOT_ATTEMPTED = "not_attempted"


_ABSTAINS = re.compile(
    r"\bi (?:do not|don['\u2019]t|cannot|can['\u2019]t) (?:know|recall|say|answer|tell)\b"
    r"|\bno idea\b|\bnot (?:sure|certain)\b|\bunable to (?:answer|say)\b",
    re.IGNORECASE,
)


def fact(question: Question, answer: str) -> Score:
    """A fact by its words: the accepted answer is there, or is withheld, or is another."""
    if any(_has(answer, gold) for gold in question.answers):
        return graded(Grade.CORRECT)
    return graded(Grade.NOT_ATTEMPTED if _ABSTAINS.search(answer) else Grade.INCORRECT)


def graded(grade: Grade, wrong: float = 0.0) -> Score:
    """1 for correct, 0 for not attempted, `wrong` for incorrect: below 0, guessing costs."""
    value = {Grade.CORRECT: 1.0, Grade.NOT_ATTEMPTED: 0.0, Grade.INCORRECT: wrong}[grade]
    return Score(value=value, parts={grade.value: 1.0}, why=grade.value)


VERIFIERS = {
    f.__name__: Check(f.__name__, f)
    for f in (exact, choice, numeric, regex, contains, exact_set, token_f1, fact)
} | {"maths": Check("maths", maths, library="math-verify")}
"""Verifiers by name."""
