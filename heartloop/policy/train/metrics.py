"""What a batch of rollouts shows: the figures of one line of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from statistics import fmean, pstdev

from heartloop.policy.evals.stats import commonest, distinct
from heartloop.policy.train.rollout import Rollout, Spent

Row = dict[str, float | int | str | None]

FROM_TRAINER = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "entropy": "entropy",
    "kl": "kl",
    "clip_ratio/region_mean": "clipped",
    "ppo/value_loss": "value_loss",
    "ppo/explained_variance": "explained_variance",
    "ppo/explained_outcome": "explained_outcome",
    "sampling/sampling_logp_difference/mean": "logprob_gap",
}
"""What is taken over from the trainer's log, under which name."""


def figures(rollouts: Sequence[Rollout], limit: int) -> Row:
    """Rewards, lengths and variety of one batch; errored dialogues count in their share only.

    Args:
        rollouts: The batch.
        limit: Most tokens of a reply; one that reaches it was cut, but for a rare end just there.
    """
    whole = [r for r in rollouts if r.reward is not None]
    rewards = [r.reward for r in whole if r.reward is not None]
    said = [turn.reply.text for r in whole for turn in r.episode.turns]
    lengths = [length for r in whole for length in reply_lengths(r)]
    row: Row = {
        "dialogues": len(rollouts),
        "errored": 1 - len(whole) / len(rollouts),
        "reward": _mean(rewards),
        "reward_std": pstdev(rewards) if rewards else None,
        "tied_groups": tied(rollouts),
        "emotion": _mean([r.emotions[-1] for r in whole]),
        "turns": _mean([float(len(r.turn_ends)) for r in whole]),
        "sampled_tokens": sum(r.sampled for r in rollouts),
        "tokens": sum(len(r.prompt_ids) + len(r.completion_ids) for r in rollouts),
        "reply_tokens": _mean(lengths),
        "cut_replies": _mean([float(cut) for r in whole for cut in cut_replies(r, limit)]),
        "reply_words": _mean([float(len(text.split())) for text in said]),
        "distinct_2": distinct(said),
        "commonest_share": commonest(said)[1] if said else None,
    }
    return row | {f"part/{name}": value for name, value in sorted(_parts(whole))}


def _parts(rollouts: Sequence[Rollout]) -> Iterator[tuple[str, float | None]]:
    """Means of the rewards' parts, without those numbered by turn."""
    scores = [r.episode.score.parts for r in rollouts if r.episode.score]
    names = {name for parts in scores for name in parts if "turn_" not in name}
    for name in names:
        yield name, _mean([parts[name] for parts in scores if name in parts])


def reply_lengths(rollout: Rollout) -> list[float]:
    """Sampled tokens of each turn."""
    ends = [-1, *rollout.turn_ends]
    return [float(sum(rollout.mask[a + 1 : b + 1])) for a, b in pairwise(ends)]


def cut_replies(rollout: Rollout, limit: int) -> list[bool]:
    """Whether each reply came to the most tokens that it may have."""
    return [length >= limit for length in reply_lengths(rollout)]


def tied(rollouts: Sequence[Rollout]) -> float | None:
    """Share of groups without a difference in reward, from which nothing is learnt.

    None where every dialogue is played once.
    """
    return _mean([float(_is_tied(group)) for group in _groups(rollouts) if len(group) > 1])


def tied_rows(rollouts: Sequence[Rollout]) -> frozenset[int]:
    """Numbers of the rollouts in groups without a difference in reward; one alone is no group."""
    numbered = iter(range(len(rollouts)))
    groups = [(group, [next(numbered) for _ in group]) for group in _groups(rollouts)]
    return frozenset(
        at for group, numbers in groups if len(group) > 1 and _is_tied(group) for at in numbers
    )


def _groups(rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
    """Neighbours that are samples of one dialogue."""
    by_dialogue = groupby(rollouts, key=lambda r: (r.episode.scenario.id, r.episode.seed))
    return [list(group) for _, group in by_dialogue]


def _is_tied(group: Sequence[Rollout]) -> bool:
    return len({r.reward for r in group if r.reward is not None}) < 2


def seconds(spent: Spent, total: float) -> Row:
    """Where the time of one step went."""
    return {
        "seconds": round(total, 3),
        "seconds_generation": round(spent.generation, 3),
        "seconds_world": round(spent.world, 3),
        "seconds_driver": round(spent.total - spent.generation - spent.world, 3),
        "seconds_learning": round(total - spent.total, 3),
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
