"""Scripted policies, from awful to good: baselines, probes, and a bound from above."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

from heartloop.env.play import Prompt
from heartloop.errors import InvalidInput, unknown
from heartloop.policy import acts, wording
from heartloop.types import HiddenGoal, Reply, Scenario

Speak = Callable[[Prompt, Random], str]
_FULL = 40
"""Most words of the oracle, which has more to say."""
_REFLECTIVE = ("reflect", "rich", "feel", "meaning", "reflect", "rich")
_SERVING = {
    HiddenGoal.ANALYSIS: "analysis",
    HiddenGoal.ADVICE: "suggest",
    HiddenGoal.OTHERS: "motive",
    HiddenGoal.REFLECTION: "insight",
    HiddenGoal.PRAISE: "affirm",
    HiddenGoal.LISTENING: "invite",
    HiddenGoal.EMPATHY: "rich",
    HiddenGoal.AGREEMENT: "agree",
}


@dataclass(frozen=True, slots=True)
class Scripted:
    """A policy by rule: what it says follows from the prompt alone."""

    name: str
    speak: Speak
    reveals: bool = False

    def __call__(self, prompts: Sequence[Prompt]) -> list[Reply]:
        """One reply to each prompt."""
        return [Reply(text=self.speak(p, Random(p.seed))) for p in prompts]


@cache
def _data() -> dict[str, Any]:
    text = files("heartloop.policy").joinpath("scripted.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _silent(prompt: Prompt, rng: Random) -> str:
    return ""


def _echo(prompt: Prompt, rng: Random) -> str:
    return wording.last_words(prompt.history)


def _lines(key: str) -> Speak:
    """Speaks the lines of that name."""

    def speak(prompt: Prompt, rng: Random) -> str:
        return acts.fill(_data()[key], prompt.history, rng, parts=_data()["parts"])

    return speak


def _reflective(prompt: Prompt, rng: Random) -> str:
    turn = len(list(wording.replies(prompt.history)))
    return acts.say(_REFLECTIVE[turn % len(_REFLECTIVE)], prompt.history, rng)


def _oracle(prompt: Prompt, rng: Random) -> str:
    """Says what the hidden goal needs, each need once, then what serves the goal in general."""
    if prompt.secret is None:
        raise InvalidInput("the oracle needs the scenario: play it with reveals=True prompts")
    turn = len(list(wording.replies(prompt.history)))
    needs = _needs(prompt.secret, turn)
    if not needs:
        act = _SERVING[prompt.secret.goal] if turn % 2 else "rich"
        return acts.say(act, prompt.history, rng)
    lines = _data()["oracle"][prompt.secret.goal.value]
    return acts.fill(lines, prompt.history, rng, extra=needs, longest=_FULL)


def _needs(scenario: Scenario, turn: int) -> dict[str, str]:
    """The needs not said by `turn`; analysis takes two at a time, one of each side."""
    step = 2 if scenario.goal is HiddenGoal.ANALYSIS else 1
    left = scenario.needs[turn * step : turn * step + step]
    return dict(zip(("need", "need2"), left, strict=False)) if len(left) == step else {}


SCRIPTED: dict[str, Speak] = {
    "silent": _silent,
    "echo": _echo,
    "cheerleader": _lines("cheerleader"),
    "brush_off": _lines("brush_off"),
    "interrogator": _lines("interrogator"),
    "analyst": _lines("analyst"),
    "adviser": _lines("adviser"),
    "neutral": _lines("neutral"),
    "listener": _lines("listener"),
    "reflective": _reflective,
    "oracle": _oracle,
}
"""Scripted policies by name, from awful to good."""
NEUTRAL = "neutral"
"""The baseline that others are compared with: bland stock comfort."""


def make(name: str) -> Scripted:
    """The scripted policy of that name.

    Raises:
        UnknownName: there is none.
    """
    if name not in SCRIPTED:
        raise unknown("scripted policy", name, SCRIPTED)
    return Scripted(name, SCRIPTED[name], reveals=name == "oracle")
