"""Group relative policy optimisation of a language model on dialogues."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import IO, Any

from heartloop.config import GrpoSettings, TrainConfig
from heartloop.env.play import Task, World
from heartloop.env.record import EpisodeWriter
from heartloop.errors import TrainingFailure, extra
from heartloop.policy.train import checkpoint
from heartloop.policy.train.metrics import FROM_TRAINER, Row, figures, seconds
from heartloop.policy.train.rollout import Driver, Rollout, Speaker
from heartloop.rewards import reward
from heartloop.types import Scenario

SAVE_EVERY = 20
"""Optimiser steps between two checkpoints."""


def train_grpo(
    config: TrainConfig, speaker: Speaker, world: World, scenarios: Sequence[Scenario], out: Path,
    listen: Callable[[Row], None] = lambda row: None,
) -> None:  # fmt: skip
    """Train a model in place, from its newest checkpoint in `out` if there is one.

    Writes metrics.jsonl, episodes.jsonl and checkpoint-N to `out`.

    Args:
        config: Everything the run follows from.
        speaker: The model; with a checkpoint in `out`, loaded from it.
        world: Holds the users.
        scenarios: Whom to train on.
        out: The run directory, which exists.
        listen: Called with each row of metrics.jsonl.

    Raises:
        MissingExtra: torch or trl is not installed.
        TrainingFailure: too many dialogues could not be scored.
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    try:
        import torch
        from transformers.trainer_callback import PrinterCallback

        from heartloop.policy.train import trl_adapter
    except ImportError as cause:
        raise extra("train", cause) from cause
    driver = Driver(
        world, speaker, reward(config.reward.spec),
        config.policy.max_new_tokens, config.policy.temperature,
    )  # fmt: skip
    start = checkpoint.newest(out)
    state = checkpoint.read_state(start) if start else {"step": 0}
    steps = config.grpo.steps - state["step"]
    if steps <= 0:
        return
    optimiser = torch.optim.AdamW(
        speaker.model.parameters(), lr=config.grpo.learning_rate, weight_decay=0.0
    )
    if start:
        checkpoint.load_optimiser(start, optimiser)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: schedule(step + state["step"], config.grpo)
    )
    if config.grpo.beta:
        _keep_reference(speaker, out)
    with _Log.open(out, state) as log:
        session = _Session(config, driver, log, out, state["step"], optimiser, listen)
        trainer = trl_adapter.DialogueTrainer(
            speaker.model, speaker.tokenizer, trl_adapter.arguments(config, str(out), steps),
            prompts(config, len(scenarios))[state["step"] * config.grpo.prompts_per_step :],
            scenarios, session.play, offset=state["step"],
            callbacks=[trl_adapter.watcher(session.learnt)], optimizers=(optimiser, rate),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    speaker.model.eval()


def prompts(config: TrainConfig, number: int) -> list[str]:
    """The dialogues of a whole run, `prompts_per_step` for each step, over `number` scenarios.

    Each pass through the scenarios has an order of its own, and each dialogue a user's seed.
    """
    from heartloop.policy.train.trl_adapter import encode

    seed, total = config.run.seed, config.grpo.steps * config.grpo.prompts_per_step
    order: list[int] = []
    for epoch in range(math.ceil(total / number)):
        row = list(range(number))
        Random(f"{seed}:scenarios:{epoch}").shuffle(row)
        order += row
    return [encode(index, user_seed(seed, place)) for place, index in enumerate(order[:total])]


def user_seed(seed: int, place: int) -> int:
    """The user's seed in the dialogue at a place of the run, 31 bits."""
    digest = hashlib.sha256(f"{seed}:user:{place}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def schedule(step: int, grpo: GrpoSettings) -> float:
    """Share of the peak learning rate in a step (from 0)."""
    rise = min(1.0, (step + 1) / (grpo.warmup_steps + 1))
    progress = min(1.0, step / max(1, grpo.steps))
    fall = {"constant": 1.0, "linear": 1 - progress,
            "cosine": 0.5 * (1 + math.cos(math.pi * progress))}  # fmt: skip
    return rise * fall[grpo.schedule]


def _keep_reference(speaker: Speaker, out: Path) -> None:
    """Save the policy as it began, from where TRL loads what it must not stray from."""
    folder = out / "reference"
    if not folder.exists():
        checkpoint.save_model(folder, speaker)
    speaker.model.config._name_or_path = str(folder)


class _Log:
    """The files that a run appends to."""

    def __init__(self, episodes: EpisodeWriter, metrics: IO[str]) -> None:
        self.episodes, self.metrics = episodes, metrics

    @classmethod
    def open(cls, out: Path, state: dict[str, Any]) -> _Log:
        """Begin the files, or go back to where they stood at a checkpoint."""
        for name in ("episodes", "metrics"):
            path = out / f"{name}.jsonl"
            if path.exists():
                os.truncate(path, state.get(name, 0))
        metrics = (out / "metrics.jsonl").open("a", encoding="utf-8")
        return cls(EpisodeWriter(out / "episodes.jsonl", resume=True), metrics)

    def write(self, row: Row) -> None:
        """Append a line of figures."""
        self.metrics.write(json.dumps(row) + "\n")
        self.metrics.flush()
        os.fsync(self.metrics.fileno())

    def sizes(self) -> dict[str, int]:
        """Where the files stand."""
        return {
            "episodes": self.episodes.path.stat().st_size,
            "metrics": os.fstat(self.metrics.fileno()).st_size,
        }

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.episodes.close()
        self.metrics.close()


class _Session:
    """What happens around each step of the trainer."""

    def __init__(
        self, config: TrainConfig, driver: Driver, log: _Log, out: Path, offset: int,
        optimiser: Any, listen: Callable[[Row], None],
    ) -> None:  # fmt: skip
        self._config, self._driver, self._log, self._out = config, driver, log, out
        self._offset, self._optimiser, self._listen = offset, optimiser, listen
        self._figures: Row = {}
        self._mark = time.perf_counter()

    def play(self, tasks: Sequence[Task], step: int) -> list[Rollout]:
        """Play a batch with the weights after `step` steps, and write it down.

        Raises:
            TrainingFailure: too many dialogues could not be scored.
        """
        rollouts = self._driver.play(tasks, f"{self._config.run.name}@{step}")
        self._log.episodes.write(*(r.episode for r in rollouts))
        self._figures = figures(rollouts)
        check_errored(rollouts, self._config.grpo.max_errored)
        return rollouts

    def learnt(self, step: int, trained: dict[str, Any]) -> None:
        """Note what the trainer says after an optimiser step; save now and then."""
        now = time.perf_counter()
        own: Row = {name: trained.get(key) for key, name in FROM_TRAINER.items() if key in trained}
        step += self._offset
        row: Row = {"step": step} | self._figures | own
        row |= seconds(self._driver.spent, now - self._mark)
        self._mark = now
        self._log.write(row)
        self._listen(row)
        grpo = self._config.grpo
        if step == grpo.steps or step % (SAVE_EVERY * grpo.iterations) == 0:
            self._save(step)

    def _save(self, step: int) -> None:
        folder = self._out / f"checkpoint-{step}"
        state = {"step": step} | self._log.sizes()
        checkpoint.save(folder, self._driver.speaker, self._optimiser, state)
        checkpoint.keep_only(folder)


def check_errored(rollouts: Sequence[Rollout], most: float) -> None:
    """Stop a run whose dialogues fail.

    Raises:
        TrainingFailure: more than the share `most` has no reward, or nothing is left to learn from.
    """
    lost = [r for r in rollouts if r.reward is None]
    if len(lost) > most * len(rollouts) or (lost and len(lost) == len(rollouts)):
        score = lost[0].episode.score
        why = lost[0].episode.error or (score.why if score else "no reason given")
        raise TrainingFailure(
            f"{len(lost)} of {len(rollouts)} dialogues could not be scored, more than the "
            f"{most:.0%} of grpo.max_errored; the first: {why}"
        )
