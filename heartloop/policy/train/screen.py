"""Progress of a run: a live bar in a terminal, a line a step elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from heartloop.config import TrainConfig
from heartloop.policy.evals.report import Comparison
from heartloop.policy.train.metrics import Row

_SHOWN = {"reward": "{:.3f}", "emotion": "{:.1f}", "turns": "{:.1f}", "reply_words": "{:.1f}",
          "distinct_2": "{:.2f}", "seconds": "{:.1f}"}  # fmt: skip


def steps(config: TrainConfig) -> int:
    """Optimiser steps of all stages."""
    each = {
        "warmup": config.warmup.steps,
        "improve": config.improve.steps * config.improve.rounds,
        "rl": config.rl.steps,
    }
    return sum(each[stage] for stage in config.run.stages)


class Screen:
    """Shows a run on a console."""

    def __init__(self, config: TrainConfig, console: Console | None = None) -> None:
        """Show on `console`, or on the standard error stream."""
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.fields[name]}", style="bold", markup=False), BarColumn(),
            TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=self._console, disable=not self._console.is_terminal,
        )  # fmt: skip
        total = steps(config)
        self._task = self._bar.add_task("starting", total=total, name=config.run.name)

    def note(self, text: str) -> None:
        """Say what is going on."""
        self._show(text, None)

    def step(self, row: Row) -> None:
        """Show the figures of a step."""
        number = int(row["step"] or 0)
        figures = "  ".join(
            f"{key} {form.format(row[key])}"
            for key, form in _SHOWN.items()
            if row.get(key) is not None
        )
        self._show(figures, number)

    def close(self, found: Mapping[str, Comparison | None], last: str) -> None:
        """Say what the run came to."""
        for name, comparison in found.items():
            if comparison:
                self._say(f"{name}: {_gain(comparison)}")
        self._say(last)

    def _show(self, text: str, number: int | None) -> None:
        self._bar.update(self._task, completed=number, description=text)
        if not self._console.is_terminal:
            self._say(text if number is None else f"step {number}  {text}")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Screen:
        """Begin to draw."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing."""
        self._bar.stop()


def _gain(found: Comparison) -> str:
    before, after = found.before.final, found.after.final
    if not before or not after or not found.gain:
        return "nothing could be scored"
    return f"mean final emotion {before.mean:.1f} before, {after.mean:.1f} after, gain {found.gain}"
