"""A training run between two steps: its files, its checkpoints, and where it stands."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from heartloop.config import TrainConfig
from heartloop.env.record import EpisodeWriter
from heartloop.policy.model import LanguageModel
from heartloop.policy.train import checkpoint
from heartloop.policy.train.metrics import FROM_TRAINER, Row
from heartloop.policy.train.smells import smells
from heartloop.policy.train.trackers import Trackers
from heartloop.types import Episode

_LOG = logging.getLogger(__name__)
METRICS = "metrics.jsonl"
FILES = ("episodes", "metrics")
"""Names, without ".jsonl", of the files that a run appends to."""


class State(BaseModel):
    """Where a run stands; saved with every checkpoint."""

    stage: int = 0
    """Number of the stage, from 0."""
    step: int = 0
    """Optimiser steps within the stage."""
    total: int = 0
    """Optimiser steps of all stages; names the checkpoint."""
    sizes: dict[str, int] = {}
    """Bytes of each file."""
    best: str = ""
    """Name of the best checkpoint; "" while none was evaluated."""
    best_emotion: float = 0.0
    """Its mean final emotion."""


class Session:
    """Writes down what a run does, and keeps what it needs to go on."""

    def __init__(
        self, config: TrainConfig, speaker: LanguageModel, out: Path,
        listen: Callable[[Row], None] = lambda row: None,
        evaluate: Callable[[int], float | None] = lambda total: None, leads: bool = True,
    ) -> None:  # fmt: skip
        """Begin, or go back to the newest checkpoint in `out`.

        Args:
            config: Everything the run follows from.
            speaker: The model, as that checkpoint left it.
            out: The run directory, which exists.
            listen: Called with each row of metrics.jsonl.
            evaluate: Mean final emotion of the policy after so many steps, on the way.
            leads: Whether this process writes; of several, one does.
        """
        self.config, self.speaker, self.out, self.leads = config, speaker, out, leads
        self.start = checkpoint.newest(out)
        self.state = State(**checkpoint.read_state(self.start)) if self.start else State()
        self._listen, self._evaluate = listen, evaluate
        self._history: list[Row] = []
        if leads:
            self._open()

    def _open(self) -> None:
        """Begin the files, or go back to where they stood at the checkpoint."""
        for name in FILES:
            path = self.out / f"{name}.jsonl"
            if path.exists():
                os.truncate(path, self.state.sizes.get(name, 0))
        self._trackers = Trackers(self.config, self.out, self.speaker.model)
        self._metrics = (self.out / METRICS).open("a", encoding="utf-8")
        self._episodes = EpisodeWriter(self.out / "episodes.jsonl", resume=True)

    def policy(self, step: int) -> str:
        """Name of the policy after so many steps of this stage."""
        return f"{self.config.run.name}@{self.state.total - self.state.step + step}"

    def played(self, episodes: Sequence[Episode]) -> None:
        """Write dialogues of the training down."""
        if self.leads:
            self._episodes.write(*episodes)

    def learnt(self, step: int, row: Row, trained: dict[str, Any]) -> None:
        """Write down what one more optimiser step of the stage came to.

        Args:
            step: Its number within the stage, from 1.
            row: Figures of what it learnt from.
            trained: What the trainer says.
        """
        self.state.total += step - self.state.step
        self.state.step = step
        if not self.leads:
            return
        stage = self.config.run.stages[self.state.stage]
        own: Row = {name: trained.get(key) for key, name in FROM_TRAINER.items() if key in trained}
        full: Row = {"step": self.state.total, "stage": stage} | row | own
        self._history.append(full)
        for warning in smells(self._history):
            _LOG.warning("step %d: %s", self.state.total, warning)
        self._metrics.write(json.dumps(_finite(full)) + "\n")
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        self._trackers.log(full)
        self._listen(full)

    def is_due(self, step: int, last: int, unit: int = 1) -> Literal["", "save", "evaluate"]:
        """What is due after a step of the stage, whose batches last so many steps each."""
        every = self.config.eval.every
        if every and step % (unit * max(1, every // unit)) == 0:
            return "evaluate"
        whole = step == last or step % (unit * max(1, self.config.run.save_every // unit)) == 0
        return "save" if whole else ""

    def save(self, parts: Sequence[Callable[[Path], None]], optimiser: Any, evaluate: bool) -> None:
        """Write a checkpoint, with what else belongs to it, and delete those not kept."""
        name = f"checkpoint-{self.state.total}"
        emotion = self._evaluate(self.state.total) if evaluate else None
        if not self.leads:
            return
        if emotion is not None and (not self.state.best or emotion > self.state.best_emotion):
            self.state.best, self.state.best_emotion = name, emotion
        self.state.sizes = {n: (self.out / f"{n}.jsonl").stat().st_size for n in FILES}
        own = [self.speaker.save, *parts]
        checkpoint.save(self.out / name, own, optimiser, self.state.model_dump())
        checkpoint.keep(self.out, self.config.run.keep, self.state.best)

    def next_stage(self) -> None:
        """Go on to the stage that follows, from a checkpoint of its own beginning."""
        self.state.stage, self.state.step = self.state.stage + 1, 0
        self.start = None

    def close(self) -> None:
        """Close the files."""
        if self.leads:
            self._episodes.close()
            self._metrics.close()
            self._trackers.close()


class Clock:
    """Seconds between two steps."""

    def __init__(self) -> None:
        """Start."""
        self._mark = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now, then = time.perf_counter(), self._mark
        self._mark = now
        return now - then


def _finite(row: Row) -> Row:
    """A row without numbers that JSON does not have."""
    return {k: None if isinstance(v, float) and v != v else v for k, v in row.items()}
