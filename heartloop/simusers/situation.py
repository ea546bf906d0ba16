"""The authored parts that scenarios are composed from: situations and personas, with checks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from heartloop.types import Moment, PersonaGroup, Value

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=3)]
Domain = Literal[
    "work", "study", "family", "love", "friendship", "health",
    "money", "loss", "identity", "loneliness", "home", "community",
]  # fmt: skip
Life = Literal["any", "employed", "student", "parent", "partner"]


class Feeling(Value):
    """A felt emotion, an ontology word with its strength in (0, 1]."""

    emotion: Text
    intensity: float = Field(gt=0, le=1)


class Openers(Value):
    """First messages of the person, two for each display rule."""

    express: tuple[Text, Text]
    amplify: tuple[Text, Text]
    deamplify: tuple[Text, Text]
    neutralize: tuple[Text, Text]
    mask: tuple[Text, Text]


class Needs(Value):
    """What would serve each hidden goal in this situation, as clauses that fit after a lead-in."""

    analysis: tuple[Text, ...] = Field(min_length=2)
    """Clauses, alternating sides: what speaks for the other, what speaks for the person."""
    advice: tuple[Text, ...] = Field(min_length=3)
    """Imperative clauses: concrete steps that fit."""
    others: tuple[Text, ...] = Field(min_length=2)
    """Clauses with the other person as subject: why they may have acted so."""
    reflection: tuple[Text, ...] = Field(min_length=2)
    """Clauses with "you" as subject: what the person could see about themselves."""
    praise: tuple[Text, ...] = Field(min_length=3)
    """Clauses with "you" as subject: specific things the person did well."""
    listening: tuple[Text, ...] = Field(min_length=2)
    """Noun phrases: moments the person wants to be heard about."""
    empathy: tuple[Text, ...] = Field(min_length=2)
    """Clauses: what it means underneath."""
    agreement: tuple[Text, ...] = Field(min_length=3)
    """Clauses: grounds on which the person bears no fault."""


class Situation(Value):
    """Something that happened to somebody, told in parts."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z]+(-[a-z0-9]+){1,5}$")]
    domain: Domain
    title: Text
    """Noun phrase in the second person: "the meeting where your lead showed your slides"."""
    who: Text
    """The other person as the speaker names them: "my team lead"."""
    pronoun: Literal["she", "he", "they"]
    life: Life
    age: tuple[int, int]
    cause: Text
    timeline: tuple[Moment, ...] = Field(min_length=3, max_length=5)
    facts: tuple[Text, ...] = Field(min_length=9, max_length=12)
    """First-person details in telling order, each new and concrete."""
    conflict: Text
    tried: Text
    stuck: Text
    felt: tuple[Feeling, ...] = Field(min_length=2, max_length=4)
    openers: Openers
    needs: Needs


class Somebody(Value):
    """Somebody a situation can happen to."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z]+(-[a-z]+)*$")]
    name: Text
    age: int = Field(ge=16, le=80)
    gender: Literal["woman", "man", "nonbinary"]
    occupation: Text
    student: bool
    group: PersonaGroup
    traits: tuple[Text, Text, Text]
    hobbies: tuple[Text, Text, Text]
    habits: Text
    style: Text
