"""Which turn a reward is put down to, and generalised advantage estimation over a dialogue.

Turn credit is shaping by a potential (Ng, Harada, Russell 1999), the emotion over 100: whatever the
reward is, a dialogue's turns add up to it, so that the best policy stays the best (with a critic,
to what it is above the emotion at the opening, which no turn earned). The centred kind
adds to the outcome each turn's own change, both against the group's mean; it changes what is best.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TIE = 1e-4
"""Added to a spread before it divides, as TRL does."""
Turns = tuple[float | None, Sequence[float]]
"""The reward of a dialogue (None where there is none), and the change of emotion over 100 at each
of its turns."""


def shares(reward: float, changes: Sequence[float], by_turn: bool) -> list[float]:
    """What each turn earns; adds up to the reward.

    Args:
        reward: Of the dialogue.
        changes: Of emotion over 100, by turn.
        by_turn: Each turn earns its own change, and the last one what is left; otherwise the last
            earns all.
    """
    before = [change if by_turn else 0.0 for change in changes[:-1]]
    return [*before, reward - sum(before)] if changes else []


def turn_advantages(group: Sequence[Turns], centred: bool, spread: float) -> list[list[float]]:
    """Advantages of each turn of a group's dialogues; 0 for those without a reward.

    Args:
        group: The samples of one dialogue.
        centred: Outcome plus own change; otherwise the reward that is still to come, against the
            mean of those who got as far.
        spread: What to divide by.
    """
    scored = [(reward, changes) for reward, changes in group if reward is not None]
    if not scored:
        return [[0.0] * len(changes) for _, changes in group]
    rows = iter(_centred(scored) if centred else _to_come(scored))
    return [
        [value / (spread + TIE) for value in next(rows)]
        if reward is not None
        else [0.0] * len(changes)
        for reward, changes in group
    ]


def spread(rewards: Sequence[float | None]) -> float:
    """Standard deviation of the rewards that there are; 0 for fewer than two."""
    found = [reward for reward in rewards if reward is not None]
    return stdev(found) if len(found) > 1 else 0.0


def _centred(scored: Sequence[tuple[float, Sequence[float]]]) -> list[list[float]]:
    outcome = fmean(reward for reward, _ in scored)
    every = [change for _, changes in scored for change in changes]
    usual = fmean(every) if every else 0.0
    return [[reward - outcome + change - usual for change in changes] for reward, changes in scored]


def _to_come(scored: Sequence[tuple[float, Sequence[float]]]) -> list[list[float]]:
    rest = [_tail_sums(shares(reward, changes, by_turn=True)) for reward, changes in scored]
    longest = max(map(len, rest))
    usual = [fmean(row[at] for row in rest if len(row) > at) for at in range(longest)]
    return [[value - usual[at] for at, value in enumerate(row)] for row in rest]


def _tail_sums(values: Sequence[float]) -> list[float]:
    sums, total = [], 0.0
    for value in reversed(values):
        total += value
        sums.append(total)
    return sums[::-1]


def over_tokens(
    rows: Sequence[Sequence[float]], ends: Sequence[Sequence[int]], like: Tensor
) -> Tensor:
    """A value of each turn at every token up to the turn's end; shape and device of `like`."""
    import torch

    found = torch.zeros(like.shape, dtype=torch.float32, device=like.device)
    for number, (values, places) in enumerate(zip(rows, ends, strict=True)):
        start = 0
        for value, end in zip(values, places, strict=True):
            found[number, start : end + 1] = value
            start = end + 1
    return found


def at_ends(rows: Sequence[Sequence[float]], ends: Sequence[Sequence[int]], like: Tensor) -> Tensor:
    """A value of each turn at the turn's last token, 0 elsewhere; shape and device of `like`."""
    import torch

    found = torch.zeros(like.shape, dtype=torch.float32, device=like.device)
    for number, (values, places) in enumerate(zip(rows, ends, strict=True)):
        for value, end in zip(values, places, strict=True):
            found[number, end] = value
    return found


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of the policy's tokens; the user's tokens do not count as time.

    The state after the last token of a turn is the one before the first token of the next, so that
    the result is that of the sequence with all other tokens taken out.

    Args:
        rewards: Shape (rows, tokens), used where `mask` is set.
        values: Of the state before each token, same shape.
        mask: True at the policy's tokens, same shape.
        gamma: Discount by token.
        lam: Weight of longer sums.

    Returns:
        Both of the same shape, 0 where `mask` is not set.
    """
    import torch

    advantages = torch.zeros_like(values)
    later = torch.zeros_like(values[:, 0])
    coming = torch.zeros_like(later)
    for at in reversed(range(values.shape[1])):
        own = mask[:, at]
        error = rewards[:, at] + gamma * coming - values[:, at]
        found = error + gamma * lam * later
        advantages[:, at] = torch.where(own, found, 0.0)
        later = torch.where(own, found, later)
        coming = torch.where(own, values[:, at], coming)
    return advantages, torch.where(mask, advantages + values, 0.0)
