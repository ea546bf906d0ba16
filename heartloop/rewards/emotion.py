"""Rewards from the emotion scores that the simulated user left in the episode.

`final` is the reward of RLVER (arXiv 2507.03112): the last emotion over 100.
"""

from __future__ import annotations

from heartloop.rewards.base import measure
from heartloop.types import Episode, Score


@measure("final")
def final(episode: Episode) -> Score:
    """Emotion after the last scored turn, over 100."""
    return Score(value=episode.final / 100)


@measure("gain")
def gain(episode: Episode) -> Score:
    """How far the emotion rose above its start, over 100."""
    return Score(value=(episode.final - episode.opening.emotion) / 100)


@measure("trough")
def trough(episode: Episode) -> Score:
    """The lowest emotion of the dialogue, its start included, over 100."""
    emotions = [turn.reaction.emotion for turn in episode.turns if turn.reaction]
    return Score(value=min([episode.opening.emotion, *emotions]) / 100)


@measure("change")
def change(episode: Episode) -> Score:
    """The sum of the changes over 100, with each turn's as a part.

    Differs from `gain` where a change ran into 0 or 100.
    """
    steps = per_turn(episode)
    parts = {f"turn_{number}": step for number, step in enumerate(steps, 1)}
    return Score(value=sum(steps), parts=parts)


def per_turn(episode: Episode) -> list[float]:
    """The change of each turn over 100; 0 where the preset leaves the reply unscored."""
    return [turn.reaction.change / 100 if turn.reaction else 0.0 for turn in episode.turns]
