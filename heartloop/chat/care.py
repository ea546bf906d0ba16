"""Care for the person at the keyboard: saying that it is a program, and whom to call.

The words of acute risk are found by phrases. The texts shown are fixed ones of `care.toml`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from heartloop.errors import unknown
from heartloop.simusers.phrases import words

_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_CLAUSE = re.compile(
    "[.!?;,:\\u2014\\u2026\\n\\u3002\\uff0c\\uff01\\uff1f\\uff1b]|\\bbut\\b|\\bbecause\\b", re.I
)
INTERNATIONAL = "international"


class Level(StrEnum):
    """How plainly a risk is put."""

    EXPLICIT = "explicit"
    INDIRECT = "indirect"


class Risk(NamedTuple):
    """Words of acute risk in a message."""

    level: Level
    language: str


@cache
def _data() -> dict[str, Any]:
    text = files("heartloop.chat").joinpath("care.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@cache
def _patterns(table: str, key: str) -> tuple[re.Pattern[str], ...]:
    rows = _data()[table][key]
    families = _data()["families"]
    filled = (
        re.sub("<([a-z]+)>", lambda found: families.get(found[1], found[0]), row)
        for row in ([rows] if isinstance(rows, str) else rows)
    )
    return tuple(map(re.compile, filled))


@cache
def _simplified() -> dict[int, int]:
    return str.maketrans(*_data()["spelling"]["zh"])


def language(text: str) -> str:
    """The language of a text: "zh" where it holds a Chinese character, else "en"."""
    return "zh" if _CHINESE.search(text) else "en"


def ai_notice(text: str = "") -> str:
    """The statement that this is a program, in the language of `text`."""
    notice: str = _data()["ai"][language(text)]
    return notice


def asks_if_ai(text: str) -> bool:
    """Whether a message asks what it is talking with."""
    return any(
        pattern.search(clause)
        for script, clause in _clauses(text)
        for pattern in _patterns("asks_if_ai", script)
    )


def risk(text: str) -> Risk | None:
    """Words of acute risk for the writer, the most plainly put first; None where there are none."""
    clauses = list(_clauses(text))
    for level in Level:
        for script, clause in clauses:
            if _threatens(clause, level, script):
                return Risk(level, script)
    return None


def _clauses(text: str) -> Iterator[tuple[str, str]]:
    """The clauses of a text with their script; a negation holds in its own clause only."""
    for clause in _CLAUSE.split(text):
        if language(clause) == "zh":
            yield "zh", clause.translate(_simplified()).strip()
        elif spoken := [word for word in words(clause) if word not in ".!?"]:
            spelling = _data()["spelling"]["en"]
            yield "en", " ".join(spelling.get(word, word) for word in spoken)


def _threatens(clause: str, level: Level, script: str) -> bool:
    if any(pattern.search(clause) for pattern in _patterns("exempt", f"aside_{script}")):
        return False
    for pattern in _patterns("exempt", script):
        clause = pattern.sub("~", clause)
    found = (p.search(clause) for p in _patterns("risk", f"{level}_{script}"))
    return any(match and not _denied(clause[: match.start()], level, script) for match in found)


def _denied(before: str, level: str, script: str) -> bool:
    """Whether what stands before a phrase in its clause takes it back, or is about another."""
    speaks_of_others = script == "zh" or level == Level.EXPLICIT
    keys = (f"not_{script}", f"others_{script}")[: 1 + speaks_of_others]
    return any(p.search(before) for key in keys for p in _patterns("exempt", key))


def region(environment: Mapping[str, str] = os.environ) -> str:
    """The region that the language settings of the system name, or "international"."""
    settings = (environment.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    setting = next(filter(None, settings), "")
    found = re.match(r"[a-z]{2,3}_([A-Za-z]{2})\b", setting)
    return _line_of(found[1].lower()) or INTERNATIONAL if found else INTERNATIONAL


def regions() -> tuple[str, ...]:
    """The regions whose lines are known."""
    return tuple(_data()["lines"])


def referral(place: str, script: str) -> str:
    """The fixed text that leads to people who can help.

    Args:
        place: A region or a country's two letters.
        script: "en" or "zh".

    Raises:
        UnknownName: no line is known for the place.
    """
    line = _line_of(place.lower())
    if line is None:
        raise unknown("region", place, regions())
    lines = [_data()["lines"][name][script] for name in dict.fromkeys((line, INTERNATIONAL))]
    text: str = _data()["referral"][script]
    return text.strip().replace("{lines}", "\n".join(f"- {line}" for line in lines))


def _line_of(place: str) -> str | None:
    """The region whose line serves a place."""
    if place in regions():
        return place
    return next((name for name, places in _data()["groups"].items() if place in places), None)
