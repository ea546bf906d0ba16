"""The working state of one run: what was tried, what it cost, what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from heartloop.env.play import Prompt
from heartloop.errors import EpisodeFailure, InvalidInput
from heartloop.policy.loops.base import Answers, Aside, Asking, Attempt, Budget, derived
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
    tokens: int = 0

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
        if self.budget.tokens is not None and self.tokens >= self.budget.tokens:
            return "tokens"
        if self.budget.seconds is not None and self.seconds >= self.budget.seconds:
            return "seconds"
        return ""

    def draw(self, prompts: list[Prompt]) -> Asking[tuple[Answers, float]]:
        """The replies to some prompts, and the seconds each of them took.

        Raises:
            InvalidInput: tokens are limited, and a reply comes without their number.
        """
        replies, spent = yield prompts
        self.seconds += spent
        self.tokens += sum(map(self._tokens, replies))
        return replies, spent / max(1, len(prompts))

    def _tokens(self, reply: Reply | EpisodeFailure) -> int:
        if reply.tokens is None and isinstance(reply, Reply) and self.budget.tokens is not None:
            raise InvalidInput(
                "a budget of tokens needs a policy that reports how many it samples, as models and "
                "endpoints do; this one does not: limit samples or seconds instead"
            )
        return reply.tokens or 0

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
    text, why = "", ""
    if isinstance(reply, EpisodeFailure):
        why = str(reply) or type(reply).__name__
    else:
        text = reply.text.strip()
    return Aside(
        purpose=purpose,
        messages=tuple(messages),
        text=text,
        tokens=reply.tokens,
        seconds=seconds,
        error=why,
    )
