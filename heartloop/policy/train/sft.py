"""Supervised training on dialogues: of others (`warmup`), or of the policy's own best (`improve`).

A dialogue becomes the very tokens that a rollout of it would hold, so that all stages train the
policy on the same format. Only its own words count in the loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from heartloop.config import SftSettings
from heartloop.errors import TrainingFailure, extra
from heartloop.policy.train import checkpoint
from heartloop.policy.train.metrics import Row
from heartloop.policy.train.session import Clock, Session
from heartloop.types import Episode, Message

if TYPE_CHECKING:
    from heartloop.policy.model import LanguageModel

IGNORED = -100
"""Label of a token that does not count."""


def select(episodes: Iterable[Episode], least: float, best: int) -> list[Episode]:
    """The dialogues worth learning: of each scenario the best by score, none twice.

    Args:
        episodes: Those without a score are passed over.
        least: Score that is enough.
        best: Most dialogues of one scenario.
    """
    good: dict[str, list[tuple[float, Episode]]] = {}
    seen = set()
    for episode in episodes:
        said = tuple(turn.reply.text for turn in episode.turns)
        value = episode.score.value if episode.score else None
        if value is None or value < least or said in seen or not all(said):
            continue
        seen.add(said)
        good.setdefault(episode.scenario.id, []).append((value, episode))
    ranked = (sorted(rows, key=lambda row: -row[0])[:best] for rows in good.values())
    return [episode for rows in ranked for _, episode in rows]


def tokens(speaker: LanguageModel, episode: Episode) -> dict[str, list[int]]:
    """A dialogue as `input_ids` and `labels`, up to the policy's last word."""
    ids = speaker.start([Message(role="user", content=episode.opening.text)])
    labels = [IGNORED] * len(ids)
    for number, turn in enumerate(episode.turns):
        if number and (heard := episode.turns[number - 1].reaction):
            between = speaker.user_turn(heard.text)
            ids, labels = ids + between, labels + [IGNORED] * len(between)
        said = speaker.said(turn.reply)
        ids, labels = ids + said, labels + said
    return {"input_ids": ids, "labels": labels}


def order(number: int, total: int, seed: str) -> list[int]:
    """Places of so many rows, in passes through `number` of them, each in an order of its own."""
    places: list[int] = []
    for epoch in range(math.ceil(total / number)):
        row = list(range(number))
        Random(f"{seed}:{epoch}").shuffle(row)
        places += row
    return places[:total]


def learn(session: Session, episodes: Sequence[Episode], sft: SftSettings, begun: int) -> None:
    """Train the session's model on dialogues, for the steps of one round that are left.

    Args:
        session: Writes metrics.jsonl and checkpoints.
        episodes: What to learn.
        sft: How.
        begun: Step of the stage at which the round began.

    Raises:
        TrainingFailure: there is nothing to learn from.
        MissingExtra: torch or trl is not installed.
    """
    if not episodes:
        raise TrainingFailure(
            f"no dialogue scored {sft.least:g} or more: lower the stage's `least`, or raise its "
            "`people`"
        )
    try:
        import torch
        from transformers.trainer_callback import PrinterCallback

        from heartloop.policy.train import trl_adapter
    except ImportError as cause:
        raise extra("train", cause) from cause
    done = session.state.step - begun
    model = session.speaker.model
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=sft.learning_rate, weight_decay=0.0
    )
    if session.start and done:
        checkpoint.load_optimiser(session.start / checkpoint.OPTIMISER, optimiser)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - (step + done) / sft.steps)
    rows = [tokens(session.speaker, episode) for episode in episodes]
    seed = f"{session.config.run.seed}:{session.state.stage}:{begun}"
    places = order(len(rows), sft.steps * sft.dialogues, seed)[done * sft.dialogues :]
    trainer = trl_adapter.supervised(
        session, sft, [rows[place] for place in places], sft.steps - done, optimiser, rate,
        _Notes(session, optimiser, len(episodes), begun, done, sft.steps).learnt,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.eval()


class _Notes:
    """What is written down after each step."""

    def __init__(
        self, session: Session, optimiser: Any, dialogues: int, begun: int, done: int, steps: int
    ) -> None:
        self._session, self._optimiser, self._dialogues = session, optimiser, dialogues
        self._begun, self._done, self._steps = begun, done, steps
        self._clock = Clock()

    def learnt(self, step: int, trained: dict[str, Any]) -> None:
        """Note what the trainer says after an optimiser step; save now and then."""
        step += self._done
        row: Row = {"kept": self._dialogues, "seconds": round(self._clock.lap(), 3)}
        self._session.learnt(self._begun + step, row, trained)
        if due := self._session.is_due(step, self._steps):
            self._session.save([], self._optimiser, evaluate=due == "evaluate")
        self._clock.lap()
