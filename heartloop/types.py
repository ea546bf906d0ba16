"""The values every room shares: frozen, validated, and written as JSON without loss."""

from __future__ import annotations

import math
import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from heartloop.emotion import resolve

FORMAT: Literal[1] = 1
"""Version of the episode line; a reader refuses others."""

Emotion = Annotated[float, Field(ge=0, le=100)]
"""The score of SAGE (arXiv 2505.02847): engagement and mood, 0 to 100, in hundredths."""


class Value(BaseModel):
    """An immutable record; unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HiddenGoal(StrEnum):
    """What the person wants from the talk and does not say (the eight of RLVER, 2507.03112)."""

    ANALYSIS = "analysis"
    ADVICE = "advice"
    OTHERS = "others"
    REFLECTION = "reflection"
    PRAISE = "praise"
    LISTENING = "listening"
    EMPATHY = "empathy"
    AGREEMENT = "agreement"


class PersonaGroup(StrEnum):
    """How the person meets others (RLVER's `main_cha`)."""

    NEGATIVE = "negative"
    PASSIVE = "passive"
    AVOIDANT = "avoidant"


class DisplayRule(StrEnum):
    """What the person does with a felt emotion before showing it (Matsumoto et al. 2005)."""

    EXPRESS = "express"
    AMPLIFY = "amplify"
    DEAMPLIFY = "deamplify"
    NEUTRALIZE = "neutralize"
    MASK = "mask"


class StopReason(StrEnum):
    """Why a dialogue ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    FAREWELL = "farewell"
    TURN_LIMIT = "turn_limit"
    ERROR = "error"


class Message(Value):
    """One utterance of the visible dialogue; the policy is the assistant."""

    role: Literal["system", "user", "assistant"]
    content: str


class Persona(Value):
    """Who the simulated user is."""

    name: str
    age: int | None = None
    gender: str = ""
    occupation: str = ""
    hobbies: tuple[str, ...] = ()
    habits: str = ""
    style: str = ""


class Moment(Value):
    """One step of a timeline."""

    when: str
    what: str


class Situation(Value):
    """What happened to the simulated user."""

    domain: str
    title: str
    who: str = ""
    pronoun: Literal["she", "he", "they"] = "they"
    cause: str = ""
    timeline: tuple[Moment, ...] = ()
    facts: tuple[str, ...] = ()
    conflict: str = ""
    tried: str = ""
    stuck: str = ""


class Provenance(Value):
    """Where a scenario comes from."""

    source: str
    licence: str = ""
    split: str = ""
    parts: tuple[str, ...] = ()


class Scenario(Value):
    """Who the simulated user is and what happened."""

    id: str
    persona: Persona
    group: PersonaGroup
    traits: tuple[str, ...] = ()
    situation: Situation
    goal: HiddenGoal
    needs: tuple[str, ...] = ()
    """Clauses that would serve the hidden goal; never shown to a policy."""
    felt: str
    """A node of the emotion ontology."""
    intensity: float = Field(0.6, gt=0, le=1)
    display: DisplayRule = DisplayRule.EXPRESS
    opener: str = ""
    """The first message; empty where the user is to make one."""
    language: str = "en"
    provenance: Provenance = Provenance(source="unknown")

    @field_validator("felt")
    @classmethod
    def _is_in_ontology(cls, word: str) -> str:
        return resolve(word)


class Reply(Value):
    """What the policy said in one turn."""

    text: str
    think: str | None = None
    raw: str | None = None
    """The generated text where it differs from `text`."""
    tokens: int | None = Field(None, ge=0)
    """Tokens sampled for it, think block included; None where nobody counted."""

    @field_validator("text", "think", "raw")
    @classmethod
    def _has_no_lone_surrogates(cls, text: str | None) -> str | None:
        """Half characters, which no file can hold, become U+FFFD."""
        return text and text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    @classmethod
    def parse(cls, raw: str) -> Reply:
        """Split a generated text into think block and reply.

        Only one complete block at the very start, followed by text, counts as thinking; anything
        else is shown to the user as it is, so that a leak can be seen and costs.
        """
        found = _THINK.fullmatch(raw)
        if not found or "<think>" in found["text"] or "</think>" in found["text"]:
            return cls(text=raw)
        return cls(text=found["text"], think=found["think"].strip(), raw=raw)


_THINK = re.compile(r"\s*<think>(?P<think>(?:(?!</?think>).)*)</think>\s*(?P<text>\S.*)", re.DOTALL)


class Appraisal(Value):
    """Why an emotion changed: named contributions that add up to the change."""

    contributions: dict[str, float] = {}
    beliefs: dict[str, float] = {}
    """Probability of each appraisal variable (understood, validated, ...)."""
    evidence: dict[str, float] = {}
    """What the reader found in the reply, non-zero entries only."""
    felt: str = ""
    shown: str = ""
    intensity: float = 0.0
    reader: str = ""


class Reaction(Value):
    """What a simulated user does after a reply (or, at the start, with none)."""

    text: str
    emotion: Emotion
    change: float = 0.0
    farewell: bool = False
    appraisal: Appraisal = Appraisal()
    record: dict[str, Any] = {}
    """What a recomputation needs beyond the texts (raw model output, prompt hash, ...)."""


class Turn(Value):
    """One policy reply and the user's reaction to it; None where the preset leaves it unscored."""

    reply: Reply
    reaction: Reaction | None


class Score(Value):
    """The result of a reward: a value, or None for "could not be scored"; its parts; a reason."""

    value: float | None
    parts: dict[str, float] = {}
    why: str = ""

    @field_validator("value")
    @classmethod
    def _is_finite(cls, value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            raise ValueError(f"a score must be finite or None, got {value!r}")
        return value


class Episode(Value):
    """A whole dialogue with everything needed to recompute its scores."""

    format: Literal[1] = FORMAT
    id: str
    user: str
    """Id and version of the simulated user, e.g. "embedded/1+lexical/1"."""
    preset: str
    seed: int
    policy: str
    scenario: Scenario
    opening: Reaction
    turns: tuple[Turn, ...] = ()
    stop: StopReason | None = None
    error: str = ""
    reward: str = ""
    """Spec of the reward that gave `score`."""
    score: Score | None = None

    @property
    def final(self) -> float:
        """Emotion after the last scored turn, 0 to 100."""
        scored = [t.reaction.emotion for t in self.turns if t.reaction]
        return scored[-1] if scored else self.opening.emotion

    @property
    def changes(self) -> list[float]:
        """Change of every scored turn."""
        return [t.reaction.change for t in self.turns if t.reaction]

    @property
    def history(self) -> list[Message]:
        """The visible dialogue."""
        messages = [Message(role="user", content=self.opening.text)]
        for turn in self.turns:
            messages.append(Message(role="assistant", content=turn.reply.text))
            if turn.reaction:
                messages.append(Message(role="user", content=turn.reaction.text))
        return messages
