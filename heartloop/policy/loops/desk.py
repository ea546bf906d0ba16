"""The working state of one run: what was tried, what it cost, what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from heartloop.env.play import Prompt
from heartloop.errors import EpisodeFailure
from heartloop.policy.loops.base import (
    Answers,
    Aside,
    Asking,
    Attempt,
    Budget,
    derived,
    length,
)
from heartloop.types import Message, Reply


@dataclass(slots=True)
class Desk:
    """One run under way."""

    prompt: Prompt
    budget: Budget
    role: Literal["user", "system"]
    """Who speaks what only the policy sees."""
    judged: bool
    """Whether failed drafts are known to have failed."""
    attempts: list[Attempt] = field(default_factory=list)
    asides: list[Aside] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    """Cues and instructions given, which nobody but the policy may see."""
    seconds: float = 0.0
    words: int = 0

    @property
    def usable(self) -> list[Attempt]:
        """Attempts that may be given as the reply."""
        return [attempt for attempt in self.attempts if attempt.usable]

    @property
    def left(self) -> int:
        """Samples that may still be drawn."""
        return self.budget.samples - len(self.attempts) - len(self.asides)

    def limit(self, samples: int = 1) -> str:
        """The limit that forbids drawing so many samples more, "" for none."""
        if self.left < samples:
            return "samples"
        if self.budget.words is not None and self.words >= self.budget.words:
            return "words"
        if self.budget.seconds is not None and self.seconds >= self.budget.seconds:
            return "seconds"
        return ""

    def draw(self, prompts: list[Prompt]) -> Asking[tuple[Answers, float]]:
        """The replies to some prompts, and the seconds each of them took."""
        replies, spent = yield prompts
        self.seconds += spent
        self.words += sum(length(r) for r in replies if isinstance(r, Reply))
        return replies, spent / max(1, len(prompts))

    def note(self, text: str) -> Message:
        """A message that only the policy sees."""
        return Message(role=self.role, content=text)

    def aside(self, purpose: str, *messages: Message) -> Asking[str]:
        """What the policy says to a question about its drafts; "" where it fails."""
        history = (*self.prompt.history, *messages)
        seed = derived(self.prompt.seed, purpose, len(self.asides))
        ((reply,), seconds) = yield from self.draw([Prompt(history, seed, self.prompt.secret)])
        self.asides.append(_aside(purpose, history, reply, seconds))
        return self.asides[-1].text


def _aside(
    purpose: str, messages: Sequence[Message], reply: Reply | EpisodeFailure, seconds: float
) -> Aside:
    if isinstance(reply, EpisodeFailure):
        why = str(reply) or type(reply).__name__
        return Aside(purpose=purpose, messages=tuple(messages), text="", seconds=seconds, error=why)
    return Aside(
        purpose=purpose,
        messages=tuple(messages),
        text=reply.text.strip(),
        words=length(reply),
        seconds=seconds,
    )
