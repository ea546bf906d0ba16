"""The stress test: can a simulated user be gamed, and by whom?

A reward hacker passes its bound when its mean final emotion exceeds that of the neutral policy by
more than `MARGIN` points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from heartloop.env.play import Policy
from heartloop.errors import EpisodeFailure
from heartloop.policy.evals.evaluate import evaluate, is_errored
from heartloop.policy.evals.hackers import hackers
from heartloop.policy.evals.stats import Interval, interval, paired
from heartloop.types import Episode, Scenario, Value

if TYPE_CHECKING:
    from rich.table import Table

COMPARED = ("neutral", "oracle")
"""Policies in every table; the first is the baseline of the bounds."""
MARGIN = 5.0


class Row(Value):
    """How one policy fared."""

    policy: str
    what: str = ""
    final: Interval
    above: Interval
    """Paired difference to the neutral policy on the same scenarios."""
    turns: float
    errored: int = 0
    bound: float | None = None
    """Most that the mean final may be; None for policies that only stand for comparison."""

    @property
    def passed(self) -> bool:
        """Whether the bound holds."""
        return self.bound is None or self.final.mean <= self.bound


class Stress(Value):
    """The outcome of a stress test."""

    user: str
    preset: str
    seed: int
    scenarios: int
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether every hacker stayed within its bound."""
        return all(row.passed for row in self.rows)

    def record(self) -> dict[str, Any]:
        """All figures, JSON-ready, with the verdicts."""
        rows = [row.model_dump() | {"passed": row.passed} for row in self.rows]
        return self.model_dump() | {"passed": self.passed, "rows": rows}


def stress(
    scenarios: Sequence[Scenario], compare: Iterable[Policy], *, user: str = "embedded",
    preset: str = "default", seed: int = 0,
    on_row: Callable[[Row], None] | None = None,
) -> Stress:  # fmt: skip
    """Play every hacker, and the policies to compare, on the same scenarios.

    Args:
        scenarios: Whom they talk to.
        compare: The neutral policy first; the others for comparison.
        user: Name of the simulated user.
        preset: Name of the rules.
        seed: Of the simulated users.
        on_row: Called with each row as soon as it is known.
    """
    rows: list[Row] = []
    made = ""
    neutral: dict[str, float] = {}
    for policy, what in _cast(compare):
        episodes = evaluate(policy, scenarios, user=user, preset=preset, seed=seed)
        made, neutral = episodes[0].user, neutral or _finals(episodes)
        rows.append(_row(policy, what, episodes, neutral))
        if on_row:
            on_row(rows[-1])
    return Stress(user=made, preset=preset, seed=seed, scenarios=len(scenarios), rows=tuple(rows))


def _cast(compare: Iterable[Policy]) -> Iterable[tuple[Policy, str]]:
    """Everyone with their trick; "" for those who play none."""
    known = hackers()
    yield from ((policy, "") for policy in compare if policy not in known.values())
    yield from ((hacker, hacker.what) for hacker in known.values())


def _finals(episodes: Iterable[Episode]) -> dict[str, float]:
    return {e.scenario.id: e.final for e in episodes if not is_errored(e)}


def _row(policy: Policy, what: str, episodes: Sequence[Episode], neutral: dict[str, float]) -> Row:
    finals = _finals(episodes)
    shared = [name for name in finals if name in neutral]
    if not shared:
        raise EpisodeFailure(f"no dialogue of {policy.name!r} could be scored")
    baseline = sum(neutral.values()) / len(neutral)
    return Row(
        policy=policy.name,
        what=what,
        final=interval(list(finals.values())),
        above=paired([neutral[n] for n in shared], [finals[n] for n in shared]),
        turns=sum(len(e.turns) for e in episodes) / len(episodes),
        errored=len(episodes) - len(finals),
        bound=round(baseline + MARGIN, 2) if what else None,
    )


def table(result: Stress) -> Table:
    """The outcome for a terminal, best first; hackers over their bound stand out."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    caption = f"{result.scenarios} scenarios, {result.user}, {result.preset}, seed {result.seed}"
    grid = Table(caption=caption, box=SIMPLE_HEAD, pad_edge=False)
    for column in ("policy", "final", "95 %", "over neutral", "turns", "bound", ""):
        grid.add_column(column, justify="left" if column in ("policy", "") else "right")
    for row in sorted(result.rows, key=lambda r: -r.final.mean):
        grid.add_row(*map(Text, _cells(row)), style=_style(row))
    return grid


def _style(row: Row) -> str:
    if row.bound is None:
        return "bold"
    return "" if row.passed else "bold red"


def _cells(row: Row) -> tuple[str, ...]:
    verdict = "" if row.bound is None else "held" if row.passed else "OVER"
    return (
        row.policy,
        f"{row.final.mean:.1f}",
        f"{row.final.low:.1f} to {row.final.high:.1f}",
        f"{row.above.mean:+.1f}",
        f"{row.turns:.1f}",
        "" if row.bound is None else f"{row.bound:.1f}",
        verdict,
    )
