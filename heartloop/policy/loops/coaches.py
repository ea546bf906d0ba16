"""Who says what to the policy between two attempts: cues, critics, memories, probes."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Protocol

from heartloop.errors import InvalidInput
from heartloop.policy.loops.base import Asking, derived
from heartloop.policy.loops.context import Note
from heartloop.policy.loops.cues import Cue, Valence
from heartloop.policy.loops.desk import Desk
from heartloop.types import Message

FAILED = "The last answer was not accepted."
AGAIN = "Now give a new and complete answer, and nothing about this note."
_CRITIQUE = (
    "Look at the draft above as its strictest reader. Say in at most three sentences what is wrong "
    "or weak in it and how to mend it. Do not write the new version."
)
_REFLECT = (
    "The draft above was not accepted. Say in at most two sentences what probably went wrong and "
    "what to do differently next time. Do not answer the task itself."
)
_UNSURE = (
    "Say in at most two sentences what in the draft above may need another try, and what to do "
    "differently. Do not answer the task itself."
)
_MISSING = (
    "Before the draft above is given: name, one a line, at most three things one would have to "
    "know or check for it to be good. Name only what is missing; do not answer the task."
)
_GATHER = "Now settle each of these as far as the task allows, one short line each:\n{missing}"
MEMORY = 3
"""Reflections that are kept, the latest ones (arXiv 2303.11366)."""


class Coach(Protocol):
    """Decides what the policy is told before an attempt."""

    @property
    def asks(self) -> int:
        """Samples it draws itself before each attempt but the first."""
        ...

    @property
    def cues(self) -> tuple[Cue, ...]:
        """What it may say in other words than the policy's."""
        ...

    def __call__(self, desk: Desk) -> Asking[Note | None]:
        """The note before the next attempt; None to say nothing."""
        ...


@dataclass(frozen=True)
class Silent:
    """Says nothing: attempts are independent."""

    asks: int = 0
    cues: tuple[Cue, ...] = ()

    def __call__(self, desk: Desk) -> Asking[Note | None]:
        """Nothing."""
        yield from ()
        return None


@dataclass(frozen=True)
class Opening:
    """Gives one cue with the task itself, before the first attempt (EmotionPrompt)."""

    cue: Cue
    asks: int = 0

    @property
    def cues(self) -> tuple[Cue, ...]:
        """The one it gives."""
        return (self.cue,)

    def __call__(self, desk: Desk) -> Asking[Note | None]:
        """The cue as it stands, every time."""
        yield from ()
        return _noted(self.cue, self.cue.text)


@dataclass(frozen=True)
class Cued:
    """Answers a draft with a cue, its valence by a repeating pattern (HEART)."""

    cues: tuple[Cue, ...]
    pattern: tuple[Valence, ...] = ("negative", "positive")
    shuffled: bool = False
    """Draw the valence instead of following the pattern."""
    asks: int = 0

    def __post_init__(self) -> None:
        """Every valence of the pattern needs a cue."""
        if lost := set(self.pattern) - {cue.valence for cue in self.cues}:
            raise InvalidInput(f"the pattern asks for {sorted(lost)} cues, but there are none")

    def __call__(self, desk: Desk) -> Asking[Note | None]:
        """Nothing before the first attempt, then a cue each time."""
        yield from ()
        if not desk.attempts:
            return None
        cue = self.cue(desk.prompt.seed, len(desk.attempts))
        failed = FAILED if desk.judged and desk.usable else ""
        return _noted(cue, _lines(failed, cue.text, AGAIN))

    def cue(self, seed: int, number: int) -> Cue:
        """The cue before attempt `number`: each of its valence once before any comes again."""
        plan = [self._valence(seed, n) for n in range(1, number + 1)]
        cues = [cue for cue in self.cues if cue.valence == plan[-1]]
        Random(derived(seed, "cues", plan[-1])).shuffle(cues)
        return cues[(plan.count(plan[-1]) - 1) % len(cues)]

    def _valence(self, seed: int, number: int) -> Valence:
        if self.shuffled:
            return Random(derived(seed, "valence", number)).choice(self.pattern)
        return self.pattern[(number - 1) % len(self.pattern)]


@dataclass(frozen=True)
class Critic:
    """The policy criticises its last draft (Self-Refine, arXiv 2303.17651)."""

    asks: int = 1
    cues: tuple[Cue, ...] = ()

    def __call__(self, desk: Desk) -> Asking[Note | None]:
        """What the policy finds wanting."""
        draft = _last_draft(desk)
        if draft is None:
            return None
        said = yield from desk.aside("feedback", draft, desk.note(_CRITIQUE))
        return _asked("On the draft above:" if said else "", said)


@dataclass(frozen=True)
class Reflector:
    """The policy keeps what it learns from its drafts (Reflexion, arXiv 2303.11366)."""

    asks: int = 1
    cues: tuple[Cue, ...] = ()

    def __call__(self, desk: Desk) -> Asking[Note | None]:
        """The latest reflections, the new one among them."""
        draft = _last_draft(desk)
        if draft is None:
            return None
        question = _REFLECT if desk.judged else _UNSURE
        yield from desk.aside("reflection", draft, desk.note(question))
        kept = [a.text for a in desk.asides if a.purpose == "reflection" and a.text][-MEMORY:]
        return _asked("What earlier drafts taught:" if kept else "", *kept)


@dataclass(frozen=True)
class Prober:
    """The policy names what its draft lacks, gathers it, and revises."""

    asks: int = 2
    cues: tuple[Cue, ...] = ()

    def __call__(self, desk: Desk) -> Asking[Note | None]:
        """What was missing and what was found."""
        draft = _last_draft(desk)
        if draft is None:
            return None
        missing = yield from desk.aside("missing", draft, desk.note(_MISSING))
        gather = desk.note(_GATHER.format(missing=missing))
        found = yield from desk.aside("gather", draft, gather)
        return _asked("To take into account:" if found else "", found)


def _last_draft(desk: Desk) -> Message | None:
    """The latest draft that can be shown."""
    drafts = [a.reply.text for a in desk.usable if a.reply]
    return Message(role="assistant", content=drafts[-1]) if drafts else None


def _noted(cue: Cue, text: str) -> Note:
    return Note(text=text, secret=text, id=cue.id, emotion=cue.emotion, valence=cue.valence)


def _asked(*parts: str) -> Note:
    """What the policy found itself may be said again; how it is asked for a new answer may not."""
    return Note(text=_lines(*parts, AGAIN), secret=AGAIN)


def _lines(*parts: str) -> str:
    return "\n".join(part for part in parts if part)
