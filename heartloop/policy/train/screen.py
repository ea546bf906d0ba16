"""Progress of a run: a live bar in a terminal, a line a step elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from heartloop.config import TrainConfig
from heartloop.policy.evals.report import Comparison
from heartloop.policy.train.metrics import Row

_SHOWN = {"reward": "{:.3f}", "emotion": "{:.1f}", "turns": "{:.1f}", "reply_words": "{:.1f}",
          "distinct_2": "{:.2f}", "seconds": "{:.1f}"}  # fmt: skip


PAUSE = 0.5
"""Seconds between two looks at a file that others write."""


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

    @contextmanager
    def following(self, path: Path) -> Iterator[None]:
        """Show the rows that other processes meanwhile add to a metrics.jsonl."""
        done = Event()
        reader = Thread(target=self._follow, args=(path, done))
        reader.start()
        try:
            yield
        finally:
            done.set()
            reader.join()

    def _follow(self, path: Path, done: Event) -> None:
        shown = len(_lines(path))
        ended = False
        while not ended:
            ended = done.wait(PAUSE)
            found = _lines(path)
            for line in found[shown:]:
                self.step(json.loads(line))
            shown = max(shown, len(found))

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


def _lines(path: Path) -> list[str]:
    """The whole lines of a file that may still be written, or not yet exist."""
    text = path.read_text("utf-8") if path.exists() else ""
    return text.splitlines()[: text.count("\n")]


def _gain(found: Comparison) -> str:
    before, after = found.before.final, found.after.final
    if not before or not after or not found.gain:
        return "nothing could be scored"
    return f"mean final emotion {before.mean:.1f} before, {after.mean:.1f} after, gain {found.gain}"
