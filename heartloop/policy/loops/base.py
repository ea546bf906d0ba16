"""What a loop is given and what it leaves behind: judges, budgets, attempts, traces."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from typing import Any, Literal, Protocol, TypeVar

from pydantic import Field, model_validator

from heartloop.env.play import Prompt
from heartloop.errors import EpisodeFailure
from heartloop.types import Message, Reply, Score, Value

T = TypeVar("T")
Answers = Sequence[Reply | EpisodeFailure]
Asking = Generator[list[Prompt], tuple[Answers, float], T]
"""Work that asks a policy: yields prompts, is sent the replies and the seconds they took, returns
its result."""
Kind = Literal["oracle", "proxy"]


class Judge(Protocol):
    """Scores a reply that has not been given yet."""

    @property
    def name(self) -> str:
        """Stored with every trace."""
        ...

    @property
    def kind(self) -> Kind:
        """Whether it knows what only the final scoring should know ("oracle") or not ("proxy")."""
        ...

    @property
    def passes(self) -> float | None:
        """Score at which an attempt is good enough; None where none ever is."""
        ...

    def __call__(self, prompt: Prompt, reply: Reply) -> Score:
        """The score, from 0 to 1 where it can; None where there is none.

        Raises:
            EpisodeFailure: the reply could not be scored.
        """
        ...


class Budget(Value):
    """Limits of one run, checked before each attempt with all that belongs to it."""

    samples: int = Field(5, ge=0)
    """Replies drawn from the policy, for whichever purpose."""
    tokens: int | None = Field(None, ge=0)
    """Tokens sampled from the policy, as it reports them; one that reports none is refused."""
    seconds: float | None = Field(None, ge=0)
    """Time spent waiting for the policy."""


class Call(Value):
    """What a call of the policy took."""

    tokens: int | None = None
    """Sampled, as the policy reports; None where it does not."""
    seconds: float = 0.0
    error: str = ""
    """Why it is of no use, "" where it is."""

    @model_validator(mode="before")
    @classmethod
    def _counted_words_once(cls, row: Any) -> Any:
        """Files from before tokens were counted hold words in their place."""
        return {k: v for k, v in row.items() if k != "words"} if isinstance(row, dict) else row


class Attempt(Call):
    """One draft, whatever came of it."""

    index: int
    seed: int
    messages: tuple[Message, ...]
    """Exactly what the policy was shown."""
    cue: str = ""
    """Id of the cue."""
    emotion: str = ""
    valence: str = ""
    reply: Reply | None = None
    answer: str = ""
    """What is voted on: the final answer in canonical form."""
    score: Score | None = None
    """By the judge that steers; None where nothing steers."""
    passed: bool = False
    report: Score | None = None
    """By the verifier that only measures; the policy never learns of it."""

    @property
    def usable(self) -> bool:
        """Whether it may be given as the reply."""
        return self.reply is not None and not self.error


class Aside(Call):
    """A call of the policy that was no draft: feedback, a reflection, a comparison."""

    purpose: str
    messages: tuple[Message, ...]
    text: str


class Trace(Value):
    """A run of a loop: every attempt with its score, and what was chosen."""

    loop: str
    policy: str
    settings: str = ""
    """What else decides the outcome: selector, context, budget, and cues of one's own."""
    task: str = ""
    seed: int
    messages: tuple[Message, ...] = ()
    """The task as it was given, without cue or draft."""
    attempts: tuple[Attempt, ...] = ()
    asides: tuple[Aside, ...] = ()
    chosen: int | None = None
    """Index of the attempt that was chosen; None for a new text, or none."""
    reply: Reply | None = None
    how: str = ""
    """The selector, and what it had to fall back on."""
    stopped: str = ""
    """Why no more attempts were made: "passed" or the limit that was met."""
    judge: str = ""
    verifier: str = ""
    """What made the reports, with its version."""
    report: Score | None = None
    """Of the reply."""
    oracle_assisted: bool = False
    """Whether a judge that knows the outcome stopped the loop or chose from it."""
    error: str = ""

    @property
    def calls(self) -> tuple[Call, ...]:
        """Calls of the policy."""
        return (*self.attempts, *self.asides)

    @property
    def samples(self) -> int:
        """Number of calls."""
        return len(self.calls)

    @property
    def tokens(self) -> int | None:
        """Tokens sampled; None where a reply came without their number.

        A call that failed counts with what it reports: mostly nothing was sampled.
        """
        replies = [a for a in self.attempts if a.reply] + [a for a in self.asides if not a.error]
        if any(call.tokens is None for call in replies):
            return None
        return sum(call.tokens or 0 for call in self.calls)

    @property
    def seconds(self) -> float:
        """Time spent waiting for the policy."""
        return sum(call.seconds for call in self.calls)


def derived(seed: int, *parts: object) -> int:
    """A seed that follows from another and from what it is for: 63 bits."""
    key = ":".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def attempt_seed(seed: int, index: int) -> int:
    """The policy's seed for an attempt; the first has the seed of the plain policy.

    It does not depend on the cue: arms differ in what the policy is told and in nothing else.
    """
    return seed if index == 0 else derived(seed, "attempt", index)
