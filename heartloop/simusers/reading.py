"""What a reply does: the contract of readers and the record they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from heartloop.simusers.phrases import content, words
from heartloop.types import Message, Scenario


@dataclass(frozen=True, slots=True)
class Context:
    """What the person has said and heard before the reply is read."""

    scenario: Scenario
    said: tuple[str, ...]
    """The person's messages, oldest first."""
    heard: tuple[str, ...] = ()
    """The policy's earlier replies."""

    @classmethod
    def of(cls, scenario: Scenario, history: list[Message]) -> tuple[Context, str]:
        """The context of the last reply in a history, and that reply."""
        said = tuple(m.content for m in history if m.role == "user")
        heard = tuple(m.content for m in history if m.role == "assistant")
        return cls(scenario, said, heard[:-1]), heard[-1]


@dataclass(frozen=True, slots=True)
class Reading:
    """Features of one reply, each in [0, 1]; absent means 0."""

    features: dict[str, float]
    offences: tuple[str, ...] = ()
    """What was wrong, gravest first; empty when nothing stood out."""

    def __getitem__(self, feature: str) -> float:
        """The feature's value, 0 when it was not found."""
        return self.features.get(feature, 0.0)


class Reader(Protocol):
    """Reads a reply in its context; deterministic, with a versioned id."""

    id: str

    def read(self, reply: str, context: Context) -> Reading:
        """What `reply` does for the person of `context`."""
        ...


@dataclass(frozen=True, slots=True)
class Topic:
    """The content words of a scenario, split by who may know them."""

    facts: frozenset[str]
    needs: tuple[frozenset[str], ...]

    @classmethod
    def of(cls, scenario: Scenario) -> Topic:
        """Stem the situation and the needs of a scenario once."""
        s = scenario.situation
        told = " . ".join((s.title, s.who, s.cause, s.conflict, s.tried, s.stuck, *s.facts))
        needs = tuple(content(words(need)) for need in scenario.needs)
        return cls(content(words(told)), needs)
