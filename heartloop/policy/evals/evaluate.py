"""Plays a policy against simulated users, and sums up what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pydantic import Field

from heartloop.env.play import Policy, Task, play_many
from heartloop.env.record import EpisodeWriter
from heartloop.env.threads import world
from heartloop.errors import InvalidInput
from heartloop.policy.evals.stats import Interval, commonest, distinct, interval
from heartloop.rewards import reward as read_reward
from heartloop.simusers import dynamics
from heartloop.simusers.registry import at_once, make_user
from heartloop.types import Episode, Scenario, StopReason, Value

_BATCH = 50
"""Dialogues with a policy at a time, unless more wait for a model anyway."""
SUCCESS, FAILURE = 100.0, 10.0
"""Final emotion at which a dialogue counts as won, and below which as lost."""


class Summary(Value):
    """What a set of episodes shows; errored ones are counted and enter no other figure."""

    episodes: int
    errored: int
    final: Interval | None = None
    """Mean emotion at the end; None where every episode errored."""
    success: float = 0.0
    failure: float = 0.0
    turns: float = 0.0
    by_goal: dict[str, Interval] = Field(default_factory=dict)
    by_group: dict[str, Interval] = Field(default_factory=dict)
    stops: dict[str, int] = Field(default_factory=dict)
    length: float = 0.0
    """Mean words of a reply."""
    distinct_2: float = 0.0
    commonest: str = ""
    """The reply said most often."""
    commonest_share: float = 0.0


def evaluate(
    policy: Policy, scenarios: Iterable[Scenario], *, user: str = "embedded",
    preset: str = "default", reward: str = "final", seed: int = 0, batch: int | None = None,
    out: Path | None = None, on_episode: Callable[[Episode], None] | None = None,
) -> list[Episode]:  # fmt: skip
    """Play one dialogue on each scenario.

    Args:
        policy: Who answers.
        scenarios: Whom it talks to.
        user: Name of the simulated user.
        preset: Name of the rules.
        reward: Spec of the reward that scores each episode.
        seed: Of the simulated users.
        batch: Most dialogues at a time; None for what suits the user.
        out: Takes each episode as soon as it ends; a path that exists is refused.
        on_episode: Called with each episode as soon as it ends.

    Raises:
        UnknownName: no such user, preset or reward.
        OutputRefused: `out` exists or cannot be written.
    """
    rules, scorer = dynamics.preset(preset), read_reward(reward)
    several = at_once(user)
    batch = batch or max(several, _BATCH)
    stage = world(lambda: make_user(user, rules), 1 if several == 1 else batch)
    tasks = [Task(scenario, seed) for scenario in scenarios]
    heard = [on_episode] if on_episode else []
    if out is None:
        return play_many(stage, policy, tasks, scorer, batch, _tell(heard))
    with EpisodeWriter(out) as writer:
        return play_many(stage, policy, tasks, scorer, batch, _tell([writer.write, *heard]))


def _tell(listeners: Sequence[Callable[[Episode], object]]) -> Callable[[Episode], None]:
    def tell(episode: Episode) -> None:
        for listener in listeners:
            listener(episode)

    return tell


def is_errored(episode: Episode) -> bool:
    """Whether the episode could not be scored."""
    return bool(episode.error) or episode.stop is StopReason.ERROR


def replies(episodes: Iterable[Episode]) -> list[str]:
    """Everything the policy said."""
    return [turn.reply.text for episode in episodes for turn in episode.turns]


def summary(episodes: Sequence[Episode], *, seed: int = 0) -> Summary:
    """The figures of a set of episodes, all scored by one user under one preset.

    Raises:
        InvalidInput: the episodes are of different users or presets.
    """
    _check_one_kind(episodes)
    whole = [e for e in episodes if not is_errored(e)]
    errored = len(episodes) - len(whole)
    stops = dict(sorted(Counter(str(e.stop or "none") for e in episodes).items()))
    if not whole:
        return Summary(episodes=len(episodes), errored=errored, stops=stops)
    finals, said = [e.final for e in whole], replies(whole)
    text, share = commonest(said)
    return Summary(
        episodes=len(episodes),
        errored=errored,
        final=interval(finals, seed=seed),
        success=_share(finals, lambda f: f >= SUCCESS),
        failure=_share(finals, lambda f: f < FAILURE),
        turns=sum(len(e.turns) for e in whole) / len(whole),
        by_goal=_split(whole, lambda e: e.scenario.goal.value, seed),
        by_group=_split(whole, lambda e: e.scenario.group.value, seed),
        stops=stops,
        length=sum(len(text.split()) for text in said) / max(1, len(said)),
        distinct_2=distinct(said),
        commonest=text,
        commonest_share=share,
    )


def _check_one_kind(episodes: Iterable[Episode]) -> None:
    kinds = sorted({(e.user, e.preset) for e in episodes})
    if len(kinds) > 1:
        raise InvalidInput(
            f"scores of different users or presets cannot be averaged, got {kinds}: "
            "give episodes of one kind"
        )


def _share(values: Sequence[float], holds: Callable[[float], bool]) -> float:
    return sum(map(holds, values)) / len(values)


def _split(
    episodes: Sequence[Episode], key: Callable[[Episode], str], seed: int
) -> dict[str, Interval]:
    """Final emotion by a property of the scenario."""
    groups: dict[str, list[float]] = {}
    for episode in episodes:
        groups.setdefault(key(episode), []).append(episode.final)
    return {name: interval(groups[name], seed=seed) for name in sorted(groups)}
