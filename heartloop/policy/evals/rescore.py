"""Stored dialogues scored again, by another simulated user or another reward; no policy is called.

The new user hears the recorded dialogue, not its own words: what it would have answered is left
out. So its scores are beside the recorded ones, and are no episodes of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from heartloop.env.threads import side_by_side
from heartloop.errors import EpisodeFailure, InvalidInput, OutputRefused
from heartloop.policy.evals.stats import Interval, interval, paired
from heartloop.rewards import reward as read_reward
from heartloop.rewards.base import Reward
from heartloop.simusers import dynamics
from heartloop.simusers.base import SimUser
from heartloop.simusers.registry import at_once, make_user
from heartloop.types import Episode, Message, Score, Value

MakeFor = Callable[[Episode], SimUser]
"""Makes the user that is to score an episode."""


class Rescored(Value):
    """One dialogue as two users felt it."""

    episode: str
    """Id of the recorded episode."""
    user: str
    """Who scored it again."""
    preset: str
    recorded_user: str
    recorded_changes: tuple[float, ...]
    changes: tuple[float, ...]
    """One for each turn that both scored."""
    recorded_final: float
    final: float
    error: str = ""
    """Why it could not be scored again."""
    reward: str = ""
    recorded_score: Score | None = None
    score: Score | None = None


class Agreement(Value):
    """How far two scorings agree; dialogues that could not be scored are counted only."""

    dialogues: int
    errored: int
    recorded: Interval | None = None
    rescored: Interval | None = None
    difference: Interval | None = None
    """Paired by dialogue."""
    same_sign: float = 0.0
    """Share of turns whose change has the same sign."""
    correlation: float | None = None
    """Pearson's, of the final emotions; None where one of them never differs."""


def rescore(
    episodes: Iterable[Episode], maker: MakeFor | None, reward: Reward | None = None,
    at_once: int = 1, on_result: Callable[[Rescored], object] = lambda found: None,
) -> list[Rescored]:  # fmt: skip
    """Score stored dialogues again.

    Args:
        episodes: What was said.
        maker: Makes the user that scores an episode; None leaves the emotions as recorded.
        reward: Scores each recorded episode too.
        at_once: Dialogues at a time, for users that wait for a model.
        on_result: Called with each result, in the order of the episodes.
    """

    def one(episode: Episode) -> Rescored:
        return _rescore(episode, maker, reward)

    found = []
    for result in side_by_side(one, episodes, at_once):
        on_result(result)
        found.append(result)
    return found


def rescore_files(
    episodes: Iterable[Episode], user: str | None, preset: str | None, reward: str | None,
    out: Path | None = None,
) -> list[Rescored]:  # fmt: skip
    """Score stored dialogues again by names, each result a line of `out` as soon as it is there.

    Without a preset, each dialogue is scored by the rules it was recorded with.

    Raises:
        UnknownName: no such user, preset or reward.
        OutputRefused: `out` exists or cannot be written.
    """
    scorer = read_reward(reward) if reward else None
    maker = None
    if user:
        make_user(user, preset or "default")  # a wrong name is found before the file is begun
        maker = partial(_user_for, user, preset)
    several = at_once(user) if user else 1
    if out is None:
        return rescore(episodes, maker, scorer, several)
    try:
        with out.open("x", encoding="utf-8") as lines:

            def note(found: Rescored) -> None:
                lines.write(found.model_dump_json() + "\n")
                lines.flush()

            return rescore(episodes, maker, scorer, several, note)
    except OSError as error:
        raise OutputRefused(f"cannot write {out}: {error.strerror}: choose a new file") from error


def _user_for(user: str, preset: str | None, episode: Episode) -> SimUser:
    return make_user(user, preset or episode.preset)


def _rescore(episode: Episode, maker: MakeFor | None, reward: Reward | None) -> Rescored:
    felt, user, preset, error = list(episode.changes), episode.user, episode.preset, episode.error
    final = episode.final
    if maker is not None:
        scorer = maker(episode)
        user, preset, error = scorer.id, scorer.preset.name, ""
        try:
            felt, final = _felt(episode, scorer)
        except EpisodeFailure as failure:
            felt, final, error = [], episode.opening.emotion, str(failure)
    return Rescored(
        episode=episode.id,
        user=user,
        preset=preset,
        recorded_user=episode.user,
        recorded_changes=tuple(episode.changes),
        changes=tuple(felt),
        recorded_final=episode.final,
        final=final,
        error=error,
        reward=reward.name if reward else "",
        recorded_score=episode.score,
        score=reward(episode) if reward else None,
    )


def _felt(episode: Episode, user: SimUser) -> tuple[list[float], float]:
    """The changes a new user feels along the recorded dialogue, up to where it would end it."""
    changes = []
    emotion = user.open(episode.scenario, episode.seed).emotion
    history = [Message(role="user", content=episode.opening.text)]
    for number, turn in enumerate(episode.turns, 1):
        if not dynamics.is_scored(number, user.preset):
            break
        history.append(Message(role="assistant", content=turn.reply.text))
        reaction = user.react(history)
        changes.append(reaction.change)
        emotion = reaction.emotion
        if dynamics.stop(emotion, number, reaction.farewell, user.preset) or not turn.reaction:
            break
        history.append(Message(role="user", content=turn.reaction.text))
    return changes, emotion


def agreement(found: Sequence[Rescored]) -> Agreement:
    """How far recorded and new scores agree."""
    _check_one_kind(found)
    whole = [r for r in found if not r.error]
    errored = len(found) - len(whole)
    if not whole:
        return Agreement(dialogues=len(found), errored=errored)
    old, new = [r.recorded_final for r in whole], [r.final for r in whole]
    turns = [(a, b) for r in whole for a, b in zip(r.recorded_changes, r.changes, strict=False)]
    return Agreement(
        dialogues=len(found),
        errored=errored,
        recorded=interval(old),
        rescored=interval(new),
        difference=paired(old, new),
        same_sign=sum((a > 0) == (b > 0) for a, b in turns) / max(1, len(turns)),
        correlation=_correlation(old, new),
    )


def _check_one_kind(found: Iterable[Rescored]) -> None:
    kinds = sorted({(r.recorded_user, r.user, r.preset) for r in found})
    if len(kinds) > 1:
        raise InvalidInput(
            f"scores of different users or presets cannot be averaged, got {kinds}: "
            "give episodes of one kind, or a --preset"
        )


def _correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    import numpy as np

    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return round(float(np.corrcoef(a, b)[0, 1]), 4)
