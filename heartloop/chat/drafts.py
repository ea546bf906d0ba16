"""What a test-time loop tried before it said something, as far as the person may see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from heartloop.types import Value

if TYPE_CHECKING:  # the loops are not needed before a reply is
    from heartloop.policy.loops import Attempt, Trace


class Draft(Value):
    """One attempt of a loop."""

    emotion: str = ""
    """Of what was said to the policy before it; empty where nothing was."""
    valence: str = ""
    text: str | None = None
    """None where it failed."""
    value: float | None = None
    """Score of the loop's own judge, 0 to 1; None where it was not scored."""
    error: str = ""


class Drafts(Value):
    """A run of a loop. What the loop says to its policy in private is no part of it."""

    loop: str
    policy: str
    how: str = ""
    stopped: str = ""
    judge: str = ""
    samples: int = 0
    tokens: int | None = None
    """Sampled from the policy; None where it does not report them."""
    seconds: float = 0.0
    chosen: int | None = None
    """Which draft was said; None where another text was written from them."""
    drafts: tuple[Draft, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _counted_words_once(cls, row: Any) -> Any:
        """Sessions from before tokens were counted hold words in their place."""
        return {k: v for k, v in row.items() if k != "words"} if isinstance(row, dict) else row

    @property
    def about(self) -> str:
        """Which draft was said, in a few words."""
        number = len(self.drafts)
        if self.chosen is None:
            return f"written from {number} drafts"
        return f"draft {self.chosen + 1} of {number}"


def drafts(trace: Trace) -> Drafts:
    """What may be seen of a trace."""
    return Drafts(
        loop=trace.loop, policy=trace.policy, how=trace.how, stopped=trace.stopped,
        judge=trace.judge, samples=trace.samples, tokens=trace.tokens, seconds=trace.seconds,
        chosen=trace.chosen, drafts=tuple(map(_draft, trace.attempts)),
    )  # fmt: skip


def _draft(attempt: Attempt) -> Draft:
    # A draft that was thrown out repeats what was said in private, and so does its error.
    error = attempt.error.partition(":")[0] if attempt.reply else attempt.error
    return Draft(
        emotion=attempt.emotion,
        valence=attempt.valence,
        text=attempt.reply.text if attempt.reply and attempt.usable else None,
        value=attempt.score.value if attempt.score else None,
        error=error,
    )
