"""Policies that draft by rule, for the tests of the loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from heartloop.env.play import Prompt
from heartloop.errors import EpisodeFailure
from heartloop.rewards.answers import Question
from heartloop.types import Message, Reply, Score

QUESTION = Question(id="q", text="Which number?", answers=("7",), verifier="numeric")


def ask(text: str = "Which number?", seed: int = 11) -> Prompt:
    return Prompt((Message(role="user", content=text),), seed)


def drafts(prompt: Prompt) -> int:
    return sum(message.role == "assistant" for message in prompt.history)


@dataclass
class Drafter:
    """Says what a function of (prompt, number of drafts in sight) gives; keeps its prompts."""

    say: Callable[[Prompt, int], str | EpisodeFailure]
    name: str = "drafter"
    reveals: bool = False
    counts: bool = False
    """Report a token for each word."""
    seen: list[Prompt] = field(default_factory=list)
    calls: int = 0

    def __call__(self, prompts: Sequence[Prompt]) -> list[Reply | EpisodeFailure]:
        self.calls += 1
        self.seen.extend(prompts)
        found = [self.say(prompt, drafts(prompt)) for prompt in prompts]
        return [f if isinstance(f, EpisodeFailure) else self._reply(f) for f in found]

    def _reply(self, said: str) -> Reply:
        tokens = len(said.split()) if self.counts else None
        return Reply.parse(said).model_copy(update={"tokens": tokens})


def in_turn(*texts: str | EpisodeFailure) -> Drafter:
    """One text after the other, whatever it is shown."""
    rest = iter(texts)
    return Drafter(lambda prompt, number: next(rest))


@dataclass(frozen=True)
class Guesser:
    """Draws a number by its seed alone: no cue can move it."""

    name: str = "guesser"
    reveals: bool = False

    def __call__(self, prompts: Sequence[Prompt]) -> list[Reply]:
        return [Reply(text=f"A: {Random(prompt.seed).randint(1, 9)}") for prompt in prompts]


@dataclass(frozen=True)
class Longest:
    """Likes replies by their letters; None for "hm"."""

    name: str = "longest"
    kind: str = "proxy"
    passes: float | None = None

    def __call__(self, prompt: Prompt, reply: Reply) -> Score:
        if reply.text == "raise":
            raise EpisodeFailure("no score to be had")
        if reply.text == "hm":
            return Score(value=None, why="hm")
        return Score(value=len(reply.text) / 100)
