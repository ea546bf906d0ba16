"""What a set of traces shows, with the baselines that an oracle's help must be measured against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from heartloop.errors import InvalidInput
from heartloop.policy.evals.stats import Interval, interval, paired
from heartloop.policy.loops.base import Attempt, Trace
from heartloop.rewards.answers import Grade, Question
from heartloop.types import Score, Value

if TYPE_CHECKING:
    from rich.table import Table

RIGHT = 1.0
"""Report at which an answer counts as right."""


class Summary(Value):
    """Figures of one arm in percent of tasks; what could not be scored is counted and left out."""

    arm: str
    tasks: int
    unscored: int
    """Tasks whose reply could not be scored, or that have none."""
    oracle_assisted: bool
    accuracy: Interval | None = None
    """Of the chosen reply; None where nothing could be scored."""
    not_attempted: float | None = None
    """Percent of the scored that withheld an answer; only where facts were checked."""
    over_control: Interval | None = None
    """Accuracy beyond the control's, paired by task."""
    first: float | None = None
    """Of the first attempt."""
    refine: tuple[float | None, ...] = ()
    """Right attempt at k, the last one made standing for those that were not needed."""
    any: tuple[float | None, ...] = ()
    """A right usable attempt among the first k: what an oracle would pick."""
    resampling: tuple[float, ...] = ()
    """What independent attempts at the first one's accuracy would reach: 1 - (1 - p)^k."""
    elimination: tuple[float, ...] = ()
    """What dropping refused options alone would reach; only where all tasks are choices."""
    right_to_wrong: int = 0
    """Consecutive attempts."""
    wrong_to_right: int = 0
    distinct: float = 0.0
    """Mean number of different answers of a task."""
    samples: float = 0.0
    """Calls of the policy for a task."""
    tokens: float | None = None
    """Sampled from the policy for a task; None where it does not report them all."""
    seconds: float = 0.0
    selectors: dict[str, int] = Field(default_factory=dict)


def summary(
    traces: Sequence[Trace], questions: Sequence[Question] = (), *,
    control: Sequence[Trace] = (), arm: str = "", seed: int = 0,
) -> Summary:  # fmt: skip
    """The figures of one arm.

    Args:
        traces: Of one loop.
        questions: Their tasks, from which the elimination baseline follows.
        control: Of another loop on the same tasks.
        arm: Its name; by default the loop's.
        seed: Of the intervals.

    Raises:
        InvalidInput: there is no trace.
    """
    if not traces:
        raise InvalidInput("expected one or more traces, got none")
    scores = {t.task: right(t.report) for t in traces}
    scored = [float(s) * 100 for s in scores.values() if s is not None]
    most = max(len(t.attempts) for t in traces)
    any_at = tuple(_share(_any_right(t, k) for t in traces) for k in range(1, most + 1))
    first = any_at[0] if any_at else None
    flips = Counter(flip for t in traces for flip in _flips(t))
    n = len(traces)
    return Summary(
        arm=arm or traces[0].loop,
        tasks=n,
        unscored=n - len(scored),
        oracle_assisted=any(t.oracle_assisted for t in traces),
        accuracy=interval(scored, seed=seed) if scored else None,
        not_attempted=_withheld(traces),
        over_control=_over(scores, control, seed),
        first=first,
        refine=tuple(_share(_right_at(t, k) for t in traces) for k in range(1, most + 1)),
        any=any_at,
        resampling=resampling(first, most) if first is not None else (),
        elimination=_eliminated(first, most, traces, questions),
        right_to_wrong=flips[True, False],
        wrong_to_right=flips[False, True],
        distinct=sum(len({a.answer for a in t.attempts if a.usable}) for t in traces) / n,
        samples=sum(t.samples for t in traces) / n,
        tokens=_tokens(traces),
        seconds=sum(t.seconds for t in traces) / n,
        selectors=dict(sorted(Counter(t.how for t in traces).items())),
    )


def _tokens(traces: Sequence[Trace]) -> float | None:
    """Of a task; None where any is not known."""
    known = [t.tokens for t in traces if t.tokens is not None]
    return sum(known) / len(known) if len(known) == len(traces) else None


def right(score: Score | None) -> bool | None:
    """Whether a report says right; None where it says nothing."""
    return None if score is None or score.value is None else score.value >= RIGHT


def _withheld(traces: Sequence[Trace]) -> float | None:
    grades = [t.report.parts.keys() & set(Grade) for t in traces if t.report]
    found = [Grade.NOT_ATTEMPTED in grade for grade in grades if grade]
    return 100 * sum(found) / len(found) if found else None


def _scored(trace: Trace) -> list[bool]:
    found = (right(attempt.report) for attempt in trace.attempts)
    return [is_right for is_right in found if is_right is not None]


def _any_right(trace: Trace, k: int) -> bool | None:
    found = [right(a.report) for a in trace.attempts[:k] if a.usable]
    return None if all(r is None for r in found) else any(found)


def _right_at(trace: Trace, k: int) -> bool | None:
    shown: Sequence[Attempt] = trace.attempts[:k]
    return right(shown[-1].report) if shown else None


def _flips(trace: Trace) -> Iterable[tuple[bool, bool]]:
    known = _scored(trace)
    return pairwise(known)


def _share(found: Iterable[bool | None]) -> float | None:
    """Percent right of those known; None where none is."""
    known = [is_right for is_right in found if is_right is not None]
    return 100 * sum(known) / len(known) if known else None


def _over(
    scores: Mapping[str, bool | None], control: Sequence[Trace], seed: int
) -> Interval | None:
    before, after = [], []
    for trace in control:
        here, there = scores.get(trace.task), right(trace.report)
        if here is not None and there is not None:
            before.append(100.0 * there)
            after.append(100.0 * here)
    return paired(before, after, seed=seed) if before else None


def resampling(first: float, attempts: int) -> tuple[float, ...]:
    """Percent of tasks with a right one among k independent attempts, each right in `first` %."""
    return tuple(100 * (1 - (1 - first / 100) ** k) for k in range(1, attempts + 1))


def elimination(first: float, attempts: int, options: float) -> tuple[float, ...]:
    """Percent right when every refused option is dropped and another guessed.

    Of four options, a first accuracy of 60 % comes to 60, 73, 87, 100 %: an oracle that says
    "wrong" gives the answer away.
    """
    others = max(1.0, options - 1)
    return tuple(min(100.0, first + (100 - first) * k / others) for k in range(attempts))


def _eliminated(
    first: float | None, attempts: int, traces: Sequence[Trace], questions: Sequence[Question]
) -> tuple[float, ...]:
    asked = {t.task for t in traces}
    sizes = [len(q.choices) for q in questions if q.id in asked]
    if first is None or not sizes or not all(sizes):
        return ()
    curves = [elimination(first, attempts, size) for size in sizes]
    return tuple(sum(at) / len(at) for at in zip(*curves, strict=True))


def table(rows: Sequence[Summary]) -> Table:
    """The arms for a terminal; an oracle's help is named, with the baselines it must beat."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=_caption(rows))
    for column, width in _COLUMNS.items():
        justify: Literal["left", "right"] = "left" if column == "arm" else "right"
        grid.add_column(column, justify=justify, max_width=width, overflow="fold")
    for row in rows:
        grid.add_row(*map(Text, _cells(row)))
        for name, share in _below(row):
            grid.add_row(Text(f"  {name}"), Text(f"{share:.1f}"), style="dim")
    return grid


def _below(row: Summary) -> Iterable[tuple[str, float]]:
    """What an arm's accuracy has to be seen beside."""
    if row.not_attempted is not None:
        yield "not attempted", row.not_attempted
    for name, curve in (("resampling", row.resampling), ("elimination", row.elimination)):
        if row.oracle_assisted and curve:
            yield f"{name} alone", curve[-1]


def _caption(rows: Sequence[Summary]) -> str:
    lost = sum(row.unscored for row in rows)
    return f"{rows[0].tasks} tasks; {lost} replies unscored and left out" if rows else ""


def _cells(row: Summary) -> tuple[str, ...]:
    right_, over = row.accuracy, row.over_control
    return (
        row.arm + (ASSISTED if row.oracle_assisted else ""),
        f"{right_.mean:.1f}" if right_ else "-",
        f"{right_.low:.1f} to {right_.high:.1f}" if right_ else "-",
        f"{over.mean:+.1f} [{over.low:.1f}, {over.high:.1f}]" if over else "",
        f"{row.first:.1f}" if row.first is not None else "-",
        "-" if not row.any or row.any[-1] is None else f"{row.any[-1]:.1f}",
        f"{row.right_to_wrong}, {row.wrong_to_right}",
        f"{row.samples:.1f}, {'-' if row.tokens is None else f'{row.tokens:.1f}'}",
    )


ASSISTED = " (oracle-assisted)"
_COLUMNS = {"arm": 19, "right %": 5, "95 %": 7, "over control": 8, "first": 5, "any": 5,
            "lost, won": 5, "samples, tokens": 8}  # fmt: skip
"""With their widths: words are wrapped, so that a terminal of 80 columns shows all."""
_COLOURS = (
    "--ink:#1c2430;--muted:#5b6675;--line:#d5dae1;--before:#8a94a3;--after:#b3492d;--bad:#a11"
)


def plot(arms: Mapping[str, Sequence[Trace]], path: Path) -> None:
    """Draw percent right after each attempt, a panel for each arm, as an SVG file.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidInput: there is nothing to draw.
    """
    from heartloop.policy.evals.figures import panels

    curves = {_titled(name, traces): _curve(traces) for name, traces in arms.items()}
    if not any(curves.values()):
        raise InvalidInput("expected traces with reports, got none to draw")
    known = {name: curve for name, curve in curves.items() if curve}
    svg = panels(known, "percent right by attempt", alike=True)
    style = f"<style>svg{{{_COLOURS}}}</style>"
    path.write_text(svg.replace(">", f">{style}", 1), encoding="utf-8")


def _titled(name: str, traces: Sequence[Trace]) -> str:
    return name + (ASSISTED if any(t.oracle_assisted for t in traces) else "")


def _curve(traces: Sequence[Trace]) -> list[tuple[float, Interval]]:
    most = max((len(t.attempts) for t in traces), default=0)
    found = []
    for k in range(1, most + 1):
        known = [100.0 * r for t in traces if (r := _right_at(t, k)) is not None]
        if known:
            found.append((float(k), interval(known, draws=400)))
    return found
