"""The scenario composer: seeded scenarios from authored situations and personas.

Train and test share no persona and no situation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import islice
from random import Random
from typing import TypeVar

from heartloop.errors import InvalidInput
from heartloop.simusers.situation import Situation as Authored
from heartloop.simusers.situation import Somebody
from heartloop.types import DisplayRule, HiddenGoal, Persona, Provenance, Scenario, Situation

PACK = {"train": 500, "test": 100}
"""Scenarios in each shipped split."""
SEED = 2026
TEST_EVERY = 6
"""One situation in so many (of each domain), and one persona (of each group), is for tests."""
_IDLE = ("retired", "unemployed", "between jobs", "out of work", "pensioner")
_Part = TypeVar("_Part", Authored, Somebody)


@cache
def situations() -> tuple[Authored, ...]:
    """All authored situations, by id."""
    return tuple(sorted(_read("situations-", Authored), key=lambda s: s.id))


@cache
def people() -> tuple[Somebody, ...]:
    """All authored personas, by id."""
    return tuple(sorted(_read("personas", Somebody), key=lambda p: p.id))


def _read(prefix: str, kind: type[_Part]) -> Iterator[_Part]:
    folder = files("heartloop.simusers").joinpath("scenarios/parts")
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.name.startswith(prefix):
            for line in entry.read_text(encoding="utf-8").splitlines():
                yield kind.model_validate_json(line)


def parts(split: str) -> tuple[list[Authored], list[Somebody]]:
    """The situations and personas of a split, disjoint from those of the other.

    Raises:
        InvalidInput: the split is neither "train" nor "test".
    """
    if split not in PACK:
        raise InvalidInput(f"a split is one of {sorted(PACK)}, got {split!r}")
    test = split == "test"
    events = [s for i, s in enumerate(sorted(situations(), key=lambda s: (s.domain, s.id)))
              if (i % TEST_EVERY == 0) == test]  # fmt: skip
    persons = [p for i, p in enumerate(sorted(people(), key=lambda p: (p.group, p.id)))
               if (i % TEST_EVERY == 0) == test]  # fmt: skip
    return events, persons


def compose(split: str, number: int, seed: int = SEED) -> list[Scenario]:
    """`number` scenarios of a split: goals, display rules and situations in even shares."""
    events, persons = parts(split)
    rng = Random(f"{seed}:{split}")
    goals, rules = _even(list(HiddenGoal), rng), _even(list(DisplayRule), rng)
    told: set[str] = set()
    scenarios = []
    for index, event in enumerate(islice(_even(events, rng), number)):
        rule = next(rules)
        opener = _opener(event, rule, told, rng)
        told.add(opener)
        somebody = rng.choice(_fitting(event, persons))
        name = f"{split}-{index:03d}-{event.id}"
        scenarios.append(_scenario(name, split, event, somebody, next(goals), rule, opener, rng))
    return scenarios


_Item = TypeVar("_Item")


def _even(items: Sequence[_Item], rng: Random) -> Iterator[_Item]:
    """The items for ever, each round in a new order."""
    while True:
        yield from rng.sample(items, len(items))


def _fitting(event: Authored, persons: Sequence[Somebody]) -> list[Somebody]:
    """Who the event can have happened to."""
    low, high = event.age
    fitting = [p for p in persons if low <= p.age <= high and _lives(event, p)]
    if not fitting:
        raise InvalidInput(f"no persona fits situation {event.id!r} (ages {low} to {high})")
    return fitting


def _lives(event: Authored, somebody: Somebody) -> bool:
    idle = any(word in somebody.occupation.lower() for word in _IDLE)
    if event.life == "student":
        return somebody.student
    if event.life == "employed":
        return not somebody.student and not idle
    return event.life != "parent" or somebody.age >= 25


def _opener(event: Authored, rule: DisplayRule, told: set[str], rng: Random) -> str:
    """An opener of the display rule, one not used yet where there is one."""
    openers: tuple[str, str] = getattr(event.openers, rule.value)
    fresh = [o for o in openers if o not in told]
    return rng.choice(fresh or list(openers))


def _scenario(
    name: str, split: str, event: Authored, somebody: Somebody,
    goal: HiddenGoal, rule: DisplayRule, opener: str, rng: Random,
) -> Scenario:  # fmt: skip
    feeling = rng.choice(event.felt)
    return Scenario(
        id=name,
        persona=Persona.model_validate(
            somebody.model_dump(include=set(Persona.model_fields))
        ),
        group=somebody.group,
        traits=somebody.traits,
        situation=Situation.model_validate(
            event.model_dump(include=set(Situation.model_fields))
        ),
        goal=goal,
        needs=getattr(event.needs, goal.value),
        felt=feeling.emotion,
        intensity=feeling.intensity,
        display=rule,
        opener=opener,
        provenance=Provenance(
            source="heartloop composer", licence="Apache-2.0", split=split,
            parts=(event.id, somebody.id),
        ),
    )  # fmt: skip
