"""Tiny stand-ins shared by the tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from heartloop.env.play import Prompt
from heartloop.errors import EpisodeFailure
from heartloop.simusers import dynamics
from heartloop.simusers.base import UserState
from heartloop.types import (
    Appraisal,
    Episode,
    HiddenGoal,
    Message,
    Persona,
    PersonaGroup,
    Reaction,
    Reply,
    Scenario,
    Situation,
    StopReason,
    Turn,
)


def toy_scenario(name: str = "toy", opener: str = "I lost my keys again today.") -> Scenario:
    """A small scenario in English."""
    return Scenario(
        id=name,
        persona=Persona(name="Ada"),
        group=PersonaGroup.PASSIVE,
        situation=Situation(
            domain="home",
            title="the keys you lost",
            cause="I lost the keys to the flat on the bus.",
            facts=("The keys were on the bus.", "My landlord charges 90 for a new set."),
            stuck="I have to tell him tonight.",
        ),
        goal=HiddenGoal.LISTENING,
        needs=("someone who hears the whole story",),
        felt="sadness",
        opener=opener,
    )


class ToyUser:
    """Likes replies by their number of words, up to five; says goodbye to "bye"."""

    id = "toy/1"

    def __init__(self, preset: dynamics.Preset | None = None) -> None:
        self.preset = preset or dynamics.preset("default")
        self._state: UserState = {}

    def open(self, scenario: Scenario, seed: int) -> Reaction:
        if scenario.opener == "fail":
            raise EpisodeFailure("toy failed to open")
        self._state = {"emotion": self.preset.start, "turn": 0, "seed": seed}
        return Reaction(text=scenario.opener, emotion=self.preset.start)

    def react(self, history: Sequence[Message]) -> Reaction:
        said = history[-1].content
        if said == "fail":
            raise EpisodeFailure("toy could not read this")
        wish = min(5, len(said.split())) * 2.0 + self._state["seed"] % 3
        change = dynamics.limit(-20.0 if said == "awful" else wish, self.preset)
        emotion = dynamics.step(self._state["emotion"], change, self.preset)
        turn = self._state["turn"] + 1
        self._state = {**self._state, "emotion": emotion, "turn": turn}
        record = Appraisal(contributions={"words": change}, reader="toy/1")
        return Reaction(
            text=f"Toy heard {len(said)} characters, turn {turn}.",
            emotion=emotion,
            change=change,
            farewell=said == "bye",
            appraisal=record,
        )

    def snapshot(self) -> UserState:
        return dict(self._state)

    def restore(self, state: UserState) -> None:
        self._state = dict(state)


@dataclass
class ToyPolicy:
    """Answers each prompt by a function of it; counts the sizes of its batches."""

    answer: Callable[[Prompt], str] = lambda prompt: "That sounds hard, tell me more."
    name: str = "toy-policy"
    reveals: bool = False

    def __post_init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, prompts: Sequence[Prompt]) -> list[Reply]:
        self.batches.append(len(prompts))
        return [Reply.parse(self.answer(prompt)) for prompt in prompts]


def toy_episode(
    *replies: str,
    emotions: Sequence[float] = (),
    scenario: Scenario | None = None,
    stop: StopReason | None = StopReason.TURN_LIMIT,
    error: str = "",
) -> Episode:
    """An episode from 40 through the given emotions (40 where none is given)."""
    turns, before = [], 40.0
    for number, raw in enumerate(replies):
        after = emotions[number] if number < len(emotions) else before
        reaction = Reaction(text="Hm.", emotion=after, change=round(after - before, 2))
        turns.append(Turn(reply=Reply.parse(raw), reaction=reaction))
        before = after
    scenario = scenario or toy_scenario()
    return Episode(
        id="0" * 16,
        user="toy/1",
        preset="default",
        seed=1,
        policy="toy-policy",
        scenario=scenario,
        opening=Reaction(text=scenario.opener, emotion=40),
        turns=tuple(turns),
        stop=stop,
        error=error,
    )
