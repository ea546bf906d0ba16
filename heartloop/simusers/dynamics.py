"""The emotion state machine: a pure function of emotion, change and preset.

Presets follow SAGE (arXiv 2505.02847) and RLVER (arXiv 2507.03112) where they are named after them.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from heartloop.errors import unknown
from heartloop.types import StopReason, Value


class Preset(Value):
    """The rules of a dialogue."""

    name: str
    start: float = Field(40, ge=0, le=100)
    clamp: float | None = 10
    """Largest change of one turn; None leaves it unbounded."""
    turns: int = Field(8, ge=1)
    """Most policy replies."""
    low: float = 10
    """A dialogue fails when the emotion falls below this."""
    low_inclusive: bool = False
    """Fails at `low` itself too."""
    high: float | None = 100
    """A dialogue succeeds at this; None: only a farewell ends it."""
    scores_last: bool = True
    """Whether the last reply of a full-length dialogue is scored."""


PRESETS = {
    p.name: p
    for p in (
        Preset(name="default"),
        Preset(name="sage-eval", turns=10, scores_last=False),
        Preset(
            name="rlver-train",
            start=30,
            clamp=None,
            turns=9,
            low=0,
            low_inclusive=True,
            high=None,
        ),
    )
}
"""rlver-train: the released loop admits one reply more than its `max_turns = 8`."""


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        UnknownName: no such preset.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]


def limit(change: float, rules: Preset) -> float:
    """The change after the preset's clamp, in hundredths."""
    if rules.clamp is not None:
        change = max(-rules.clamp, min(rules.clamp, change))
    return round(change, 2)


def step(emotion: float, change: float, rules: Preset) -> float:
    """The next emotion: always finite and within 0 to 100, in hundredths."""
    return round(min(100.0, max(0.0, emotion + limit(change, rules))), 2)


def stop(emotion: float, turn: int, farewell: bool, rules: Preset) -> StopReason | None:
    """Why the dialogue ends after `turn` replies (counted from 1), or None when it goes on."""
    if emotion < rules.low or (rules.low_inclusive and emotion <= rules.low):
        return StopReason.FAILURE
    if rules.high is not None and emotion >= rules.high:
        return StopReason.SUCCESS
    if farewell:
        return StopReason.FAREWELL
    return StopReason.TURN_LIMIT if turn >= rules.turns else None


def is_scored(turn: int, rules: Preset) -> bool:
    """Whether the reply number `turn` (from 1) is scored."""
    return rules.scores_last or turn < rules.turns


def replay(changes: Iterable[float], rules: Preset) -> list[float]:
    """The emotion after each change, from the preset's start."""
    emotions, emotion = [], rules.start
    for change in changes:
        emotion = step(emotion, change, rules)
        emotions.append(emotion)
    return emotions
