"""Figures of a report, as inline SVG whose colours are the page's CSS variables."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from heartloop.errors import extra
from heartloop.policy.evals.stats import Interval, interval
from heartloop.types import Episode

INK, MUTED, GRID, BEFORE, AFTER, BAD = (f"#0{n}0{n}0{n}" for n in range(1, 7))
"""Colours no figure uses as such: each stands for a CSS variable of the page."""
_VARIABLES = {
    INK: "--ink", MUTED: "--muted", GRID: "--line",
    BEFORE: "--before", AFTER: "--after", BAD: "--bad",
}  # fmt: skip
_STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "svg.hashsalt": "heartloop", "font.size": 9.5,
    "font.family": "sans-serif", "text.color": INK, "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED, "grid.color": GRID,
    "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "axes.titlesize": 10, "axes.titlelocation": "left",
    "axes.titlepad": 8, "lines.linewidth": 1.8, "xtick.major.size": 0, "ytick.major.size": 0,
    "grid.linewidth": 0.7, "figure.facecolor": "none", "axes.facecolor": "none",
    "legend.frameon": False, "patch.linewidth": 0,
}  # fmt: skip
WIDTH = 10.0
"""Inches; the page scales a figure to its column."""
Series = Sequence[tuple[float, Interval]]


def _draw(
    rows: int, columns: int, height: float, paint: Callable[[Any, list[Any]], None],
    label: str, **options: Any,
) -> str:  # fmt: skip
    """A figure of a grid of axes, painted and written as SVG.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as cause:
        raise extra("report", cause) from cause
    with rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **options)
        paint(figure, list(axes.flat))
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return _inlined(text.getvalue(), label)


def _inlined(svg: str, label: str) -> str:
    """The SVG element alone, sized by the page, coloured by its variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font: ([^;\"]*?) 'sans-serif'[^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    unique = re.sub(r"\W+", "-", label)
    svg = re.sub(r'( id="|"#|\(#|href="#)', rf"\g<1>{unique}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _band(axes: Any, series: Series, colour: str, label: str = "") -> None:
    """A line with its interval."""
    at = [x for x, _ in series]
    low, high = [i.low for _, i in series], [i.high for _, i in series]
    axes.fill_between(at, low, high, color=colour, alpha=0.16)
    axes.plot(at, [i.mean for _, i in series], color=colour, label=label)


def smoothed(steps: Sequence[Sequence[float]]) -> list[tuple[float, Interval]]:
    """The running mean over neighbouring steps with its interval; steps without values count."""
    reach = max(0, len(steps) // 24)
    series = []
    for at in range(len(steps)):
        near = [value for step in steps[max(0, at - reach) : at + reach + 1] for value in step]
        if near:
            series.append((at + 1.0, interval(near, seed=at, draws=500)))
    return series


def learning_curve(steps: Sequence[Sequence[float]]) -> str:
    """Final emotion in training, and the shares of success and failure."""

    def paint(figure: Any, axes: list[Any]) -> None:
        at = [n for n, step in enumerate(steps, 1) if step]
        means = [sum(step) / len(step) for step in steps if step]
        axes[0].plot(at, means, "o", color=AFTER, markersize=2.6, alpha=0.35, markeredgewidth=0)
        _band(axes[0], smoothed(steps), AFTER)
        axes[0].set(ylim=(0, 100), title="mean final emotion", xlabel="step")
        won = [[float(v >= 100) * 100 for v in step] for step in steps]
        lost = [[float(v < 10) * 100 for v in step] for step in steps]
        for shares, colour, name in ((won, AFTER, "success"), (lost, BAD, "failure")):
            _band(axes[1], smoothed(shares), colour, name)
        axes[1].set(ylim=(0, 100), title="share of dialogues, %", xlabel="step")
        axes[1].legend(loc="upper left", labelcolor=INK)

    return _draw(1, 2, 3.1, paint, "learning curve", width_ratios=(3, 2))


def distribution(before: Sequence[float], after: Sequence[float], label: str) -> str:
    """Final emotions before and after, in tens, and one by one."""

    def paint(figure: Any, axes: list[Any]) -> None:
        edges = list(range(0, 101, 10))
        for values, colour, name, shift in ((before, BEFORE, "before", 0.6),
                                            (after, AFTER, "after", 5.1)):  # fmt: skip
            counts = [sum(min(int(v // 10), 9) == n for v in values) for n in range(10)]
            shares = [100 * c / max(1, len(values)) for c in counts]
            axes[0].bar([e + shift for e in edges[:-1]], shares, 4.3, align="edge",
                        color=colour, label=name)  # fmt: skip
        axes[0].set(xlim=(0, 100), xticks=edges, title="share of dialogues by final emotion, %")
        axes[0].grid(axis="x", visible=False)
        axes[0].legend(loc="upper right", labelcolor=INK)
        axes[1].plot([0, 100], [0, 100], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axes[1].plot(before, after, "o", color=AFTER, markersize=4, alpha=0.55, markeredgewidth=0)
        axes[1].set(xlim=(-2, 102), ylim=(-2, 102), xlabel="before", ylabel="after",
                    title="each person: above the line is better")  # fmt: skip

    return _draw(1, 2, 3.3, paint, label, width_ratios=(3, 2))


def course(episodes: Iterable[Episode], turns: int) -> list[tuple[float, Interval]]:
    """Mean emotion after each turn; a dialogue that has ended stays where it ended."""
    levels: list[list[float]] = [[] for _ in range(turns + 1)]
    for episode in episodes:
        line = emotions(episode)
        for turn, level in enumerate(levels):
            level.append(line[min(turn, len(line) - 1)])
    if not levels[0]:
        return []
    return [(float(t), interval(v, draws=400)) for t, v in enumerate(levels)]


def emotions(episode: Episode) -> list[float]:
    """The start and the emotion after each scored turn."""
    return [episode.opening.emotion, *(t.reaction.emotion for t in episode.turns if t.reaction)]


def courses(groups: Mapping[str, tuple[Sequence[Episode], Sequence[Episode]]], label: str) -> str:
    """Small multiples: emotion over the turns before and after, one panel for each group."""
    everyone = [e for pair in groups.values() for side in pair for e in side]
    turns = max((len(e.turns) for e in everyone), default=1)
    columns = min(4, max(1, len(groups)))
    rows = math.ceil(len(groups) / columns)

    def paint(figure: Any, axes: list[Any]) -> None:
        for panel, (name, (before, after)) in zip(axes, groups.items(), strict=False):
            for side, colour in ((before, BEFORE), (after, AFTER)):
                _band(panel, course(side, turns), colour)
            panel.set(ylim=(0, 100), xlim=(0, turns), title=f"{name}  (n={len(after)})")
            panel.set_yticks([0, 50, 100])
        for spare in axes[len(groups) :]:
            spare.set_visible(False)
        figure.supxlabel("turn", color=MUTED, fontsize=9)

    return _draw(rows, columns, 0.4 + 1.75 * rows, paint, label, sharex=True, sharey=True)


def panels(curves: Mapping[str, Series], label: str, *, alike: bool = False) -> str:
    """Small multiples of lines with intervals; of one height where they are `alike`."""
    rows = math.ceil(len(curves) / 4)

    def paint(figure: Any, axes: list[Any]) -> None:
        for panel, (name, series) in zip(axes, curves.items(), strict=False):
            _band(panel, series, AFTER)
            panel.set_title(name)
            panel.margins(x=0)
        for spare in axes[len(curves) :]:
            spare.set_visible(False)

    return _draw(rows, 4, 0.3 + 1.6 * rows, paint, label, sharey=alike)
