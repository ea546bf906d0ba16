"""Reinforcement learning of a language model on dialogues: group relative, or with a critic."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from random import Random
from typing import Any

from heartloop.config import RlSettings, TrainConfig
from heartloop.env.play import Task, World
from heartloop.errors import InvalidInput, TrainingFailure, extra
from heartloop.policy.train import checkpoint, learner, ranks
from heartloop.policy.train.metrics import Row, figures, seconds
from heartloop.policy.train.rollout import Driver, Rollout
from heartloop.policy.train.sampler import Sampler
from heartloop.policy.train.session import Clock, Session
from heartloop.rewards import reward
from heartloop.types import Scenario


def train_rl(session: Session, world: World, scenarios: Sequence[Scenario]) -> None:
    """Train the session's model in place, from where the session stands.

    Args:
        session: Writes metrics.jsonl, episodes.jsonl and checkpoint-N.
        world: Holds the users.
        scenarios: Whom to train on.

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
    config, speaker, done = session.config, session.speaker, session.state.step
    if done >= config.rl.steps:
        return
    optimiser = torch.optim.AdamW(
        [p for p in speaker.model.parameters() if p.requires_grad],
        lr=config.rl.learning_rate, weight_decay=0.0,
    )  # fmt: skip
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: schedule(step + done, config.rl)
    )
    begun = _beginning(session, done)
    if config.rl.beta and begun and not config.policy.lora:
        # From where TRL loads what the policy must not stray from.
        speaker.model.config._name_or_path = str(begun)
    kind, own = _trainer(session, done, begun)
    if session.start and done:
        checkpoint.load_optimiser(session.start / checkpoint.OPTIMISER, optimiser)
    first = done // updates(config.rl) * rows_per_batch(config.rl)
    by_engine = config.rl.sampler == "vllm"
    with closing(Sampler(speaker, config)) if by_engine else nullcontext() as sampler:
        driver = Driver(
            world, speaker, reward(config.reward.spec), config.policy.max_new_tokens,
            config.policy.temperature, sampler.talk if sampler else None,
        )  # fmt: skip
        saves = [beside.save for beside in own.values()]
        steps = _Steps(session, driver, optimiser, saves, done)
        trainer = kind(
            speaker.model, speaker.tokenizer,
            trl_adapter.arguments(config, str(session.out), config.rl.steps - done),
            prompts(config, len(scenarios))[first:], scenarios, steps.play, config, done, sampler,
            callbacks=[trl_adapter.watcher(steps.learnt)], optimizers=(optimiser, rate), **own,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    speaker.model.eval()


def _trainer(session: Session, done: int, begun: Path | None) -> tuple[Any, dict[str, Any]]:
    """The class of the trainer, and what it learns beside the policy.

    The critic begins with the policy as the stage found it, which lies in `begun` by now where the
    checkpoint has not the critic's trunk.
    """
    import torch

    from heartloop.policy.train import ppo, trl_adapter

    if session.config.rl.algorithm == "grpo":
        return trl_adapter.DialogueTrainer, {}
    config, model = session.config, session.speaker.model
    if done and begun and not config.ppo.learn_trunk:
        model = learner.load(config, begun).model
    torch.manual_seed(config.run.seed)  # of the critic's head
    critic = ppo.Critic.like(model, config.ppo.learn_trunk, config.policy.gradient_checkpointing)
    teacher = ppo.CriticLearner(critic, config, done // updates(config.rl))
    if session.start and done:
        teacher.load(session.start)
    return ppo.PpoTrainer, {"learner": teacher}


def updates(rl: RlSettings) -> int:
    """Optimiser steps on each batch of dialogues."""
    return rl.minibatches * rl.iterations


def rows_per_batch(rl: RlSettings) -> int:
    """Prompts that TRL is given for a batch; it repeats each one for every sample."""
    return rl.prompts_per_step * rl.group // max(2, rl.group)


def prompts(config: TrainConfig, number: int) -> list[str]:
    """The prompts of a whole run, over `number` scenarios.

    Each pass through the scenarios has an order of its own, and each dialogue a user's seed.
    A prompt names one dialogue, or two where a dialogue is played once (TRL wants two samples).
    """
    from heartloop.policy.train.trl_adapter import encode

    rl, seed = config.rl, config.run.seed
    total = rl.steps // updates(rl) * rl.prompts_per_step
    order: list[int] = []
    for epoch in range(math.ceil(total / number)):
        row = list(range(number))
        Random(f"{seed}:scenarios:{epoch}").shuffle(row)
        order += row
    dialogues = [(index, user_seed(seed, place)) for place, index in enumerate(order[:total])]
    size = 2 if rl.group == 1 else 1
    return [encode(dialogues[at : at + size]) for at in range(0, total, size)]


def user_seed(seed: int, place: int) -> int:
    """The user's seed in the dialogue at a place of the run, 31 bits."""
    digest = hashlib.sha256(f"{seed}:user:{place}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def schedule(step: int, rl: RlSettings) -> float:
    """Share of the peak learning rate in a step (from 0)."""
    rise = min(1.0, (step + 1) / (rl.warmup_steps + 1))
    progress = min(1.0, step / max(1, rl.steps))
    fall = {"constant": 1.0, "linear": 1 - progress,
            "cosine": 0.5 * (1 + math.cos(math.pi * progress))}  # fmt: skip
    return rise * fall[rl.schedule]


def horizon(step: int, rl: RlSettings, full: int) -> int | None:
    """Turns of a dialogue that is played after so many steps; None: as many as the rules allow."""
    if step >= rl.curriculum:
        return None
    return 1 + step * (full - 1) // rl.curriculum


def _beginning(session: Session, done: int) -> Path | None:
    """Where the policy lies as this stage found it, written there once; None where none needs it.

    Raises:
        InvalidInput: the stage is resumed, and it is gone.
    """
    config = session.config
    critic = config.rl.algorithm == "ppo" and not config.ppo.learn_trunk
    if not critic and (not config.rl.beta or config.policy.lora):
        return None
    folder = session.out / f"reference-{session.state.stage}"
    if done and not folder.exists():
        raise InvalidInput(f"cannot resume: {folder}, the policy as it began, is gone")
    if session.leads and not folder.exists():
        part = folder.with_suffix(".part")
        part.mkdir(exist_ok=True)
        session.speaker.save(part)
        part.rename(folder)
    ranks.wait()
    return folder


class _Steps:
    """What happens around each step of the trainer."""

    def __init__(
        self, session: Session, driver: Driver, optimiser: Any,
        parts: Sequence[Callable[[Path], None]], done: int,
    ) -> None:  # fmt: skip
        self._session, self._driver, self._optimiser = session, driver, optimiser
        self._parts, self._done = parts, done
        self._figures: Row = {}
        self._clock = Clock()

    def play(self, tasks: Sequence[Task], step: int) -> list[Rollout]:
        """Play this process's part of a batch with the weights after `step` steps.

        The whole batch is written down.

        Raises:
            TrainingFailure: too many dialogues could not be scored.
        """
        config = self._session.config
        turns = horizon(step, config.rl, self._driver.world.preset.turns)
        rollouts = self._driver.play(tasks, self._session.policy(step), turns)
        batch = ranks.gather(rollouts)
        self._session.played([r.episode for r in batch])
        self._figures = figures(batch, config.policy.max_new_tokens)
        check_errored(batch, config.rl.max_errored)
        return rollouts

    def learnt(self, step: int, trained: dict[str, Any]) -> None:
        """Note what the trainer says after an optimiser step; save now and then."""
        spent = seconds(self._driver.spent, self._clock.lap())
        step += self._done
        self._session.learnt(step, self._figures | spent, trained)
        rl = self._session.config.rl
        if due := self._session.is_due(step, rl.steps, updates(rl)):
            self._session.save(self._parts, self._optimiser, evaluate=due == "evaluate")
        self._clock.lap()


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
            f"{most:.0%} of rl.max_errored; the first: {why}"
        )
