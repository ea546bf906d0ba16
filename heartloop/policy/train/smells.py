"""Signs that a run goes wrong, each with what to turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from heartloop.policy.train.metrics import Row

WINDOW = 5
"""Steps over which a figure is averaged before it is judged."""
_TOO_MUCH = {
    "tied_groups": (
        0.5,
        "{:.0%} of the groups have no difference in reward and teach nothing: take a finer reward, "
        "a larger rl.group, or people who are neither too easy nor too hard",
    ),
    "cut_replies": (
        0.2,
        "{:.0%} of the replies were cut at policy.max_new_tokens: raise it, or reward length",
    ),
    "errored": (
        0.05,
        "{:.0%} of the dialogues had no score and were left out: look at `error` in episodes.jsonl",
    ),
    "kl": (
        0.5,
        "the divergence from the beginning is {:.2f} a token: raise rl.beta or lower "
        "rl.learning_rate",
    ),
    "logprob_gap": (
        0.05,
        "sampler and trainer differ by {:.3f} in log-probability a token: the sampler's weights "
        "are stale, or its arithmetic is too coarse",
    ),
}
"""Figures of which there can be too much: the bound, and what to say beyond it."""
COLLAPSE = 0.3
"""Share of the first steps' entropy below which the policy has stopped trying things."""
UNEXPLAINED = -0.5
"""Explained variance below which the critic does harm."""


def smells(history: Sequence[Row]) -> Iterator[str]:
    """Warnings for the last row, once every `WINDOW` steps.

    Args:
        history: The rows of metrics.jsonl so far, of this process.
    """
    rows = [row for row in history if row.get("stage") == history[-1].get("stage")]
    if len(rows) < WINDOW or len(rows) % WINDOW:
        return
    now = {key: value for key in history[-1] if (value := _mean(rows[-WINDOW:], key)) is not None}
    for key, (most, text) in _TOO_MUCH.items():
        if now.get(key, most) > most:
            yield text.format(now[key])
    if now.get("explained_variance", 0.0) < UNEXPLAINED:
        yield (
            f"the critic's explained variance is {now['explained_variance']:.2f}: raise "
            "ppo.learning_rate or take reward.credit = 'turn'"
        )
    first, last = _mean(rows[:WINDOW], "entropy"), now.get("entropy")
    if first and last is not None and last < COLLAPSE * first:
        yield (
            f"entropy fell from {first:.2f} to {last:.2f}: the replies narrow; raise rl.beta or "
            "rl.entropy, or lower rl.learning_rate"
        )


def _mean(rows: Sequence[Row], key: str) -> float | None:
    values = [v for row in rows if isinstance(v := row.get(key), int | float)]
    return fmean(values) if values else None
