"""How a simulated user words what it does next: an authored grammar and seeded draws from it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

from heartloop.simusers.reading import Reading
from heartloop.types import DisplayRule, HiddenGoal, PersonaGroup, Scenario

_PRONOUNS = {
    "she": ("she", "her", "her"),
    "he": ("he", "him", "his"),
    "they": ("they", "them", "their"),
}
_LOWERED = frozenset(
    """The A An My Our We It He She They That This There Then When After Before Last Now So But
    And At On In For Every Everyone Some Two Three Four Five Six Half Nobody No Not What Today
    Yesterday Her His Their Even Turns Apparently Meanwhile All Both By Since Because Just Only
    Still""".split()
)
_EMOTIONAL = frozenset({HiddenGoal.PRAISE, HiddenGoal.LISTENING, HiddenGoal.EMPATHY})


@dataclass(frozen=True, slots=True)
class Moment:
    """What the person has to react to."""

    reading: Reading
    emotion: float
    change: float
    told: int
    """Facts told so far."""
    used: frozenset[str]
    """Lines said so far."""
    parting: str = ""
    """"success" or "failure" when the person takes leave."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A message and what it used up."""

    text: str
    lines: tuple[str, ...]
    told: int


@cache
def _grammar() -> dict[str, Any]:
    text = files("heartloop.simusers").joinpath("grammar/en.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _lines(*path: str) -> Sequence[str]:
    table: Any = _grammar()
    for key in path:
        table = table[key]
    return list(table["lines"])


def _pick(rng: Random, lines: Iterable[str], used: Iterable[str]) -> str:
    """A line not used before, or "" when the table is exhausted."""
    spent = set(used)
    left = [line for line in lines if line not in spent]
    return rng.choice(left) if left else ""


def tone(change: float) -> str:
    """The tone a change of emotion gives to the first words."""
    for name, least in (("soothed", 4.0), ("eased", 0.5), ("flat", -2.0), ("stung", -6.0)):
        if change >= least:
            return name
    return "hurt"


def speak(scenario: Scenario, moment: Moment, rng: Random) -> Utterance:
    """The person's next message: never one said before in this dialogue."""
    if moment.parting:
        lines = _lines("farewell", moment.parting, scenario.group.value)
        line = _pick(rng, lines, moment.used)
        return Utterance(line, (line,), moment.told)
    first = _reaction(scenario, moment, rng)
    body, lines, told = _content(scenario, moment, rng)
    text = " ".join(part for part in (first, body) if part)
    return Utterance(text, tuple(x for x in (first, *lines) if x), told)


def _reaction(scenario: Scenario, moment: Moment, rng: Random) -> str:
    """The first words, about what the helper just said."""
    offence = _offence(scenario, moment)
    if offence and rng.random() < 0.85:
        return _pick(rng, _lines("offence", offence), moment.used)
    if scenario.display is not DisplayRule.EXPRESS and rng.random() < 0.5:
        sign = "up" if moment.change >= 0.5 else "down"
        return _pick(rng, _lines("display", scenario.display.value, sign), moment.used)
    if tone(moment.change) == "flat" and rng.random() < 0.35:
        return ""
    return _pick(rng, _lines("reaction", scenario.group.value, tone(moment.change)), moment.used)


def _offence(scenario: Scenario, moment: Moment) -> str:
    """The offence to answer, if the reply did harm."""
    if moment.change > -1.0:
        return ""
    known = [{"stuffed": "garbled", "cruelty": "blame"}.get(o, o) for o in moment.reading.offences]
    if known:
        return known[0]
    pushy = max(moment.reading["suggestion"], moment.reading["directive"]) >= 0.75
    return "unwanted_advice" if pushy and scenario.goal in _EMOTIONAL else ""


def _content(scenario: Scenario, moment: Moment, rng: Random) -> tuple[str, tuple[str, ...], int]:
    """What the person adds: facts, a hint at the need, a question, or lingering."""
    facts, told = scenario.situation.facts, moment.told
    group, draw = scenario.group, rng.random()
    if draw < _hint_share(group, moment.change):
        return _as_content(_hint(scenario, moment, rng), told)
    if told < len(facts):
        return _disclose(scenario, moment, rng)
    if draw > 0.85:
        return _as_content(_pick(rng, _lines("question", group.value), moment.used), told)
    return _as_content(_pick(rng, _lines("linger", group.value), moment.used), told)


def _as_content(line: str, told: int) -> tuple[str, tuple[str, ...], int]:
    return line, (line,), told


def _hint_share(group: PersonaGroup, change: float) -> float:
    """People hint when they are missed; the avoidant hint less."""
    share = 0.18 if change >= 0.5 else 0.38
    return share * (0.7 if group is PersonaGroup.AVOIDANT else 1.0)


def _hint(scenario: Scenario, moment: Moment, rng: Random) -> str:
    lines = _lines("hint", scenario.goal.value, scenario.group.value)
    they, them, their = _PRONOUNS[scenario.situation.pronoun]
    who = scenario.situation.who or "the other person"
    fields = {"who": who, "they": they, "them": them, "their": their}
    return _sentence(_pick(rng, (line.format(**fields) for line in lines), moment.used))


def _disclose(scenario: Scenario, moment: Moment, rng: Random) -> tuple[str, tuple[str, ...], int]:
    """The next fact, or two when the person feels met."""
    facts, told = scenario.situation.facts, moment.told
    open_up = moment.change >= 2.0 and scenario.group is not PersonaGroup.AVOIDANT
    number = 2 if open_up and rng.random() < 0.4 else 1
    chosen = facts[told : told + number]
    lead = ""
    if rng.random() < 0.35:
        lead = _pick(rng, _lines("lead", scenario.group.value), moment.used)
    body = " ".join(chosen)
    if lead:
        body = f"{lead} {_continued(body) if lead[-1] in ',:' else body}"
    return body, (lead, *chosen), told + len(chosen)


def _continued(sentence: str) -> str:
    """A sentence as the continuation of another."""
    first, _, rest = sentence.partition(" ")
    return f"{first.lower()} {rest}" if first in _LOWERED else sentence


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
