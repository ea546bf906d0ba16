"""Episodes and figures in a terminal of 80 columns; a model's text never takes effect in it."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from heartloop.emotion import Band, band
from heartloop.llm import LEDGER
from heartloop.policy.evals.evaluate import Summary
from heartloop.policy.evals.figures import emotions
from heartloop.policy.evals.rescore import Agreement
from heartloop.policy.evals.stats import Interval
from heartloop.types import Episode, Reaction

WIDTH = 80
_LABEL, _RAIL, _WHY = 9, 20, 2
_COLOURS = {
    Band.S: "bright_green", Band.A: "green", Band.B: "yellow", Band.C: "dark_orange", Band.F: "red",
}  # fmt: skip
_TICKS = "▁▂▃▄▅▆▇█"
_KEPT = "\n\t"


def plain(text: str) -> str:
    """The text with control and direction characters made visible, so that none takes effect."""
    return "".join(_visible(c) for c in text)


def _visible(char: str) -> str:
    code = ord(char)
    if char in _KEPT or unicodedata.category(char) not in ("Cc", "Cf"):
        return char
    return chr(0x2400 + code) if code < 0x20 else "\N{REPLACEMENT CHARACTER}"


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, at most `WIDTH`."""
    found = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    found.width = min(found.width, WIDTH)
    return found


def episode(played: Episode) -> Iterable[RenderableType]:
    """A scored dialogue with its emotion trace."""
    yield from _head(played)
    yield _said("person", played.opening.text, "")
    yield _meter(played.opening)
    for turn in played.turns:
        yield Text()
        if turn.reply.think:
            yield _said("thinks", turn.reply.think, "dim italic")
        yield _said("policy", turn.reply.text or "(nothing)", "bold cyan")
        if turn.reaction:
            yield _said("person", turn.reaction.text, "")
            yield _meter(turn.reaction)
    yield from _foot(played)


def _head(played: Episode) -> Iterable[RenderableType]:
    who, what = played.scenario.persona, played.scenario.situation.title
    age = f", {who.age}" if who.age else ""
    yield Text(plain(f"{who.name}{age}: {what}"), style="bold")
    yield Text(plain(
        f"wants {played.scenario.goal} (hidden), {played.scenario.group}, "
        f"feels {played.scenario.felt}, shows it: {played.scenario.display}"
    ), style="dim")  # fmt: skip
    yield Text(
        plain(f"{played.scenario.id} · {played.policy} · {played.preset} · seed {played.seed}"),
        style="dim",
    )
    yield Rule(style="dim")


def _said(who: str, text: str, style: str) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=_LABEL, style="dim")
    grid.add_column(ratio=1)
    grid.add_row(who, Text(plain(text), style=style))
    return grid


def _meter(reaction: Reaction) -> Text:
    """Emotion bar, value, band, change and its main reasons in one line."""
    letter = band(reaction.emotion)
    filled = round(reaction.emotion / 100 * _RAIL)
    line = Text(" " * (_LABEL + 1))
    line.append("━" * filled, _COLOURS[letter])
    line.append("─" * (_RAIL - filled), "dim")
    line.append(f" {reaction.emotion:5.1f} {letter}", _COLOURS[letter])
    if reaction.appraisal.contributions:
        line.append(f" {_signed(reaction.change):>5}", "bold")
        line.append("  " + reasons(reaction.appraisal.contributions), "dim")
    line.truncate(WIDTH, overflow="ellipsis")
    return line


def reasons(contributions: Mapping[str, float], most: int = _WHY) -> str:
    """The largest contributions to a change, largest first; the baseline is always the same."""
    parts = ((name, points) for name, points in contributions.items() if name != "baseline")
    ranked = sorted(parts, key=lambda item: (-abs(item[1]), item[0]))
    return ", ".join(f"{name} {_signed(value)}" for name, value in ranked[:most] if value)


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"  # adding zero takes the sign off minus zero


def spark(levels: Iterable[float]) -> str:
    """A line of blocks for emotions from 0 to 100."""
    return "".join(_TICKS[min(7, int(level / 12.5))] for level in levels)


def _foot(played: Episode) -> Iterable[RenderableType]:
    levels = emotions(played)
    totals: Counter[str] = Counter()
    for turn in played.turns:
        totals.update(turn.reaction.appraisal.contributions if turn.reaction else {})
    stop = str(played.stop or "still open").replace("_", " ")
    letter = band(played.final)
    yield Rule(style="dim")
    line = Text("emotion".ljust(_LABEL + 1), style="dim")
    line.append(spark(levels), _COLOURS[letter])
    line.append(f"  {levels[0]:.1f} → {played.final:.1f} {letter}", f"bold {_COLOURS[letter]}")
    line.append(f"   ended: {stop}{_score(played)}", "not dim")
    yield line
    if played.error:
        yield _said("error", played.error, "red")
    if totals:
        yield _said("why", reasons(totals, 5), "")


def _score(played: Episode) -> str:
    if played.score is None or played.score.value is None:
        return ""
    return f", {plain(played.reward)} {played.score.value:.3f}"


def usage() -> Iterable[RenderableType]:
    """What the models called so far took; nothing where none was."""
    rows = [(purpose, used) for (_, purpose), used in LEDGER.entries().items()]
    if not rows:
        return
    grid = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("calls for", "calls", "failed", "retries", "tokens in", "out", "cost"):
        grid.add_column(column, justify="left" if column == "calls for" else "right")
    for name, used in [*rows, ("total", LEDGER.total())]:
        counts = (used.calls, used.failures, used.retries, used.prompt_tokens)
        cells = (*map(str, counts), str(used.completion_tokens), f"{used.cost:.4f}")
        grid.add_row(plain(name), *cells)
    yield grid


def agreement(found: Agreement) -> Iterable[RenderableType]:
    """Recorded and new scores side by side."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    scored = f"{found.dialogues}, of which {found.errored} could not be scored"
    grid.add_row("dialogues", Text(scored))
    for label, value in (
        ("recorded final", found.recorded),
        ("rescored final", found.rescored),
        ("difference", found.difference),
    ):
        grid.add_row(label, Text(str(value)))
    grid.add_row("same sign of change", Text(f"{found.same_sign:.0%}"))
    related = "none: one of them never differs" if found.correlation is None else None
    grid.add_row("correlation of finals", Text(related or f"{found.correlation:.2f}"))
    yield grid


def summary(name: str, found: Summary) -> Iterable[RenderableType]:
    """The figures of an evaluation."""
    yield Text(plain(name), style="bold")
    if found.final is None:
        yield Text(f"none of {found.episodes} dialogues could be scored", style="red")
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    for label, value in _figures(found, found.final):
        grid.add_row(label, Text(plain(value)))
    yield grid
    for title, groups in (("hidden goal", found.by_goal), ("group", found.by_group)):
        yield _split(title, groups)


def _figures(found: Summary, final: Interval) -> list[tuple[str, str]]:
    stops = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in found.stops.items())
    error = "" if final.se is None else f", standard error {final.se:.2f}"
    return [
        ("mean final emotion", f"{final}{error}"),
        ("success, failure", f"{found.success:.0%}, {found.failure:.0%}"),
        ("dialogues", f"{found.episodes}, of which {found.errored} could not be scored"),
        ("ended by", stops),
        ("turns, words a reply", f"{found.turns:.1f}, {found.length:.1f}"),
        ("distinct-2", f"{found.distinct_2:.3f}"),
        ("commonest reply", f"{found.commonest_share:.1%}  {found.commonest:.40}"),
    ]


def _split(title: str, groups: Mapping[str, Interval]) -> Table:
    grid = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column, side in ((title, "left"), ("n", "right"), ("final", "right"), ("95 %", "left")):
        grid.add_column(column, justify="left" if side == "left" else "right")
    for name, i in sorted(groups.items(), key=lambda item: -item[1].mean):
        grid.add_row(name, str(i.n), f"{i.mean:.1f}", f"{i.low:.1f} to {i.high:.1f}")
    return grid
