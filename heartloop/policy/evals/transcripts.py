"""Dialogues chosen to be shown, and laid out for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heartloop.emotion import band
from heartloop.policy.evals.figures import emotions
from heartloop.types import Episode, Reaction, Scenario

BARS = 8
"""Most contributions shown for a turn."""
WIDE, HIGH = 160.0, 44.0
"""Units of a sparkline."""
_FULL = 6.0
"""Points of a contribution whose bar fills its side."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One contribution to a change."""

    name: str
    value: float

    @property
    def width(self) -> float:
        """Share of its side, in percent."""
        return round(min(1.0, abs(self.value) / _FULL) * 100, 1)


@dataclass(frozen=True, slots=True)
class Line:
    """A reply and the reaction to it."""

    said: str
    think: str
    reaction: Reaction | None
    band: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class View:
    """A dialogue for a page."""

    episode: Episode
    lines: tuple[Line, ...]
    spark: str
    """Points of the emotion line."""
    start: float
    """Height of the starting emotion in the sparkline."""
    end: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Pair:
    """The same person before and after."""

    label: str
    before: View
    after: View

    @property
    def scenario(self) -> Scenario:
        """Whom both talk to."""
        return self.before.episode.scenario

    @property
    def gain(self) -> float:
        """Points by which the second ends higher."""
        return self.after.episode.final - self.before.episode.final


def choose(pairs: Sequence[tuple[Episode, Episode]]) -> list[Pair]:
    """The pairs of the largest, the median and the smallest gain."""
    if not pairs:
        return []
    ranked = sorted(pairs, key=lambda p: (p[1].final - p[0].final, p[0].scenario.id))
    last = len(ranked) - 1
    labels = {last: "Largest gain", last // 2: "Median gain", 0: "Smallest gain"}
    return [Pair(label, *(view(e) for e in ranked[at])) for at, label in labels.items()]


def view(episode: Episode) -> View:
    """Lay out a dialogue."""
    points = spark(emotions(episode))
    return View(
        episode=episode,
        lines=tuple(
            Line(t.reply.text, t.reply.think or "", t.reaction,
                 band(t.reaction.emotion).value if t.reaction else "", bars(t.reaction))
            for t in episode.turns
        ),
        spark=" ".join(f"{x:g},{y:g}" for x, y in points),
        start=points[0][1],
        end=points[-1],
    )  # fmt: skip


def spark(levels: Sequence[float]) -> list[tuple[float, float]]:
    """Points of a line through emotions from 0 to 100, within `WIDE` and `HIGH`."""
    step = (WIDE - 8) / max(1, len(levels) - 1)
    return [
        (round(4 + step * n, 1), round(4 + (HIGH - 8) * (1 - e / 100), 1))
        for n, e in enumerate(levels)
    ]


def bars(reaction: Reaction | None) -> tuple[Bar, ...]:
    """The largest contributions to a change, largest first."""
    parts = reaction.appraisal.contributions if reaction else {}
    found = [Bar(name, value) for name, value in parts.items() if abs(value) >= 0.05]
    return tuple(sorted(found, key=lambda b: (-abs(b.value), b.name))[:BARS])
