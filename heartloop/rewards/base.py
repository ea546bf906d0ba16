"""Rewards: functions of an episode that give a score, and how they are named and added up."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from heartloop.errors import InvalidInput, unknown
from heartloop.types import Episode, Score, StopReason


class Reward(Protocol):
    """A function of an episode; its name is the spec that `reward` reads back."""

    @property
    def name(self) -> str:
        """The spec of this reward, stored with every score it gives."""
        ...

    def __call__(self, episode: Episode) -> Score:
        """The score of an episode, or None with a reason where there is none."""
        ...


@dataclass(frozen=True)
class Measure:
    """A named reward over a function that may take any episode without an error to be whole."""

    name: str
    function: Callable[[Episode], Score]
    gate: bool = False
    """In a sum a gate adds nothing: closed (below 1), it takes away what is above 0."""

    def __call__(self, episode: Episode) -> Score:
        """The score; None for an episode that ended in an error."""
        if episode.error or episode.stop is StopReason.ERROR:
            return Score(
                value=None, why=f"the dialogue failed: {episode.error or 'no reason given'}"
            )
        return self.function(episode)


BUILTIN: dict[str, Measure] = {}
"""Every reward a spec can name; filled by the modules of this package."""


def measure(
    name: str, *, gate: bool = False
) -> Callable[[Callable[[Episode], Score]], Callable[[Episode], Score]]:
    """Register a function as the built-in reward of that name."""

    def register(function: Callable[[Episode], Score]) -> Callable[[Episode], Score]:
        BUILTIN[name] = Measure(name, function, gate)
        return function

    return register


@dataclass(frozen=True)
class Term:
    """A reward and its weight in a sum."""

    reward: Reward
    weight: float = 1.0

    @property
    def gate(self) -> bool:
        """Whether the reward gates the sum instead of adding to it."""
        return bool(getattr(self.reward, "gate", False))

    @property
    def spec(self) -> str:
        """The term as written in a spec."""
        return self.reward.name if self.weight == 1 else f"{self.weight!r}*{self.reward.name}"


class Weighted:
    """A reward made of rewards: the weighted sum of its parts, behind its gates.

    A closed gate leaves nothing above 0 of the sum; it never lifts a sum below 0. A part that
    could not be scored leaves the whole without a score, unless its weight is 0.
    """

    def __init__(self, *terms: Term) -> None:
        """Add up `terms`; their names must differ, and at least one must not be a gate."""
        self.terms = terms
        self.name = "+".join(term.spec for term in terms)
        names = [term.reward.name for term in terms]
        if len(set(names)) < len(names):
            raise InvalidInput(f"a sum names each reward once, got {self.name!r}")
        if all(term.gate for term in terms):
            raise InvalidInput(f"a sum needs a reward that is not a gate, got {self.name!r}")
        for term in terms:
            if term.gate and term.weight != 1:
                raise InvalidInput(
                    f"{term.reward.name!r} is a gate and takes no weight: {self.name!r}"
                )

    def __call__(self, episode: Episode) -> Score:
        """The weighted sum behind its gates, with every part by name."""
        scores = [(term, term.reward(episode)) for term in self.terms]
        parts: dict[str, float] = {}
        for term, score in scores:
            parts.update(_named(term.reward.name, score))
        lost = [(t, s) for t, s in scores if s.value is None and t.weight != 0]
        if lost:
            why = "; ".join(f"{term.reward.name}: {score.why}" for term, score in lost)
            return Score(value=None, parts=parts, why=why)
        return Score(value=_total(scores), parts=parts)


def _named(name: str, score: Score) -> Iterator[tuple[str, float]]:
    """The value of a part and its own parts, under its name."""
    if score.value is not None:
        yield name, score.value
    yield from ((f"{name}.{key}", value) for key, value in score.parts.items())


def _total(scores: list[tuple[Term, Score]]) -> float:
    total, is_open = 0.0, True
    for term, score in scores:
        if score.value is None:
            continue
        if term.gate:
            is_open = is_open and score.value >= 1
        else:
            total += term.weight * score.value
    return total if is_open else min(total, 0.0)


def function(path: str) -> Measure:
    """A plain Python function as a reward, by import path "package.module:callable".

    The function takes an Episode and returns a float, a Score, or None for "could not be scored".

    Raises:
        InvalidInput: the path is malformed, or there is no such module or callable.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute.isidentifier():
        raise InvalidInput(f"expected a path like 'package.module:function', got {path!r}")
    try:
        module = import_module(module_name)
    except Exception as error:
        raise InvalidInput(
            f"cannot import {module_name!r} for reward {path!r} ({error}); "
            "a module of your own must lie in the current folder or on PYTHONPATH"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise InvalidInput(f"{module_name!r} has no function {attribute!r} (reward {path!r})")
    return Measure(path, lambda episode: _as_score(path, _called(path, found, episode)))


def _called(path: str, found: Callable[[Episode], Any], episode: Episode) -> Any:
    try:
        return found(episode)
    except Exception as error:
        raise InvalidInput(
            f"reward {path!r} failed on episode {episode.id}: {type(error).__name__}: {error}"
        ) from error


def _as_score(path: str, result: Any) -> Score:
    """What a plain function returned, as a score."""
    if isinstance(result, Score):
        return result
    if result is None:
        return Score(value=None, why=f"{path} gave no score")
    if isinstance(result, bool) or not hasattr(result, "__float__"):
        raise InvalidInput(f"reward {path!r} must return a float, a Score or None, got {result!r}")
    value = float(result)
    if not math.isfinite(value):
        return Score(value=None, why=f"{path} gave {value}")
    return Score(value=value)


_TERM = re.compile(
    r"\s*(?:(?P<weight>-?(?:\d+\.?\d*|\.\d+)(?:[eE]-?\d+)?)\s*\*)?\s*(?P<name>[^\W\d][\w.:]*)\s*"
)


def reward(spec: str, *, functions: bool = True) -> Reward:
    """The reward a spec names: "final", "final+0.1*length+format", "package.module:function".

    Args:
        spec: Terms joined by "+", each a name with an optional weight before it. "format" is a
            gate.
        functions: Whether import paths are allowed. Refuse them for specs read from a file of
            somebody else's, since importing a module runs it.

    Raises:
        UnknownName: no built-in reward of that name.
        InvalidInput: the spec cannot be read.
    """
    terms = [_term(text, spec, functions) for text in _split(spec)]
    if len(terms) == 1 and terms[0].weight == 1:
        return terms[0].reward
    return Weighted(*terms)


def _split(spec: str) -> list[re.Match[str]]:
    found: list[re.Match[str]] = []
    position = 0
    while match := _TERM.match(spec, position):
        found.append(match)
        position = match.end()
        if position == len(spec):
            return found
        if spec[position] != "+":
            break
        position += 1
    raise InvalidInput(
        f"expected a reward like 'final' or 'final+0.1*length+format', got {spec!r}"
        f" (unreadable from position {position})"
    )


def _term(match: re.Match[str], spec: str, functions: bool) -> Term:
    name, weight = match["name"], float(match["weight"] or 1)
    if not math.isfinite(weight):
        raise InvalidInput(f"the weight of {name!r} in {spec!r} is too large")
    return Term(_named_reward(name, functions), weight)


def _named_reward(name: str, functions: bool) -> Reward:
    if ":" not in name:
        if name not in BUILTIN:
            raise unknown("reward", name, BUILTIN)
        return BUILTIN[name]
    if not functions:
        raise InvalidInput(f"reward {name!r} names a Python function, which is not allowed here")
    return function(name)
