"""Supervised training on dialogues: of others (`warmup`), or of the policy's own best (`improve`).

A dialogue becomes the very tokens that a rollout of it would hold, so that all stages train the
policy on the same format. Only its own words count in the loss, a think block before them included.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, ValidationError, model_validator

from heartloop.config import SftSettings
from heartloop.env.record import parse
from heartloop.errors import InvalidInput, RecordError, TrainingFailure, extra
from heartloop.policy.train import checkpoint
from heartloop.policy.train.metrics import Row
from heartloop.policy.train.session import Clock, Session
from heartloop.types import Episode, Message, Reply, Value

if TYPE_CHECKING:
    from heartloop.policy.model import LanguageModel

IGNORED = -100
"""Label of a token that does not count."""


class Said(Message):
    """A message of chat data; whatever else its line says of it is passed over."""

    model_config = ConfigDict(extra="ignore")
    weight: Literal[0, 1] = 1
    """0 for a reply that is read and not learnt, as one that was broken off."""

    @property
    def is_learnt(self) -> bool:
        """Whether it is a reply that counts in the loss; one without words never does."""
        return self.role == "assistant" and bool(self.weight and self.content.strip())


class Talk(Value):
    """A line of chat data: a dialogue that nobody scored, of which all is learnt that weighs."""

    model_config = ConfigDict(extra="ignore")
    messages: tuple[Said, ...]

    @model_validator(mode="after")
    def _can_be_learnt(self) -> Talk:
        roles = [said.role for said in self.messages]
        if "system" in roles[1:]:
            raise ValueError("a system message stands before all others")
        if "assistant" not in roles or roles.index("assistant") == roles.count("system"):
            raise ValueError("expected a reply of the assistant to a message of the user")
        if not any(said.is_learnt for said in self.messages):
            raise ValueError("expected a reply of the assistant with words and a weight of 1")
        return self


Lesson = Episode | Talk


def read(path: Path) -> list[Lesson]:
    """What the lines of a file teach: each is an episode, or holds `messages`.

    Raises:
        RecordError: a line is neither.
        InvalidInput: the file cannot be read, or is empty.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    if not lines:
        raise InvalidInput(f"{path} is empty: expected lines of episodes or of `messages`")
    return [_lesson(path, number, line) for number, line in enumerate(lines, 1)]


def _lesson(path: Path, number: int, line: bytes) -> Lesson:
    found = parse(path, number, line + b"\n")
    if isinstance(found, Episode):
        return found
    try:
        if "messages" in json.loads(line):
            return Talk.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "messages"
        raise RecordError(path, number, f"{place}: {first['msg']}") from None
    except (ValueError, TypeError):
        pass
    raise RecordError(path, number, f"{found.reason}; a line of `messages` is taken as well")


def select(lessons: Iterable[Lesson], least: float, best: int) -> list[Lesson]:
    """The dialogues worth learning, none twice: of each scenario the best by score, and all talks.

    Args:
        lessons: Episodes without a score are passed over; talks never have one.
        least: Score that is enough.
        best: Most episodes of one scenario.
    """
    good: dict[str, list[tuple[float, Episode]]] = {}
    talks: dict[Talk, None] = {}
    seen = set()
    for lesson in lessons:
        if isinstance(lesson, Talk):
            talks[lesson] = None
            continue
        said = tuple(turn.reply.text for turn in lesson.turns)
        value = lesson.score.value if lesson.score else None
        if value is None or value < least or said in seen or not all(said):
            continue
        seen.add(said)
        good.setdefault(lesson.scenario.id, []).append((value, lesson))
    ranked = (sorted(rows, key=lambda row: -row[0])[:best] for rows in good.values())
    return [*(episode for rows in ranked for _, episode in rows), *talks]


def tokens(speaker: LanguageModel, lesson: Lesson) -> dict[str, list[int]]:
    """A dialogue as `input_ids` and `labels`, up to the policy's last word."""
    (before, reply, weight), *turns = _turns(lesson)
    if speaker.system:  # the policy speaks under its own system message, whatever was recorded
        before = [message for message in before if message.role != "system"]
    said = speaker.said(reply)
    ids = [*speaker.start(before), *said]
    labels = [IGNORED] * (len(ids) - len(said)) + (said if weight else [IGNORED] * len(said))
    for heard, reply, weight in turns:
        between = speaker.user_turn(heard[0].content) if heard else []
        said = speaker.said(reply)
        ids += [*between, *said]
        labels += [IGNORED] * len(between) + (said if weight else [IGNORED] * len(said))
    return {"input_ids": ids, "labels": labels}


def _turns(lesson: Lesson) -> Iterator[tuple[list[Message], Reply, int]]:
    """Each reply after what it answers, with its weight in the loss."""
    if isinstance(lesson, Episode):
        heard = [Message(role="user", content=lesson.opening.text)]
        for turn in lesson.turns:
            yield heard, turn.reply, 1
            heard = [Message(role="user", content=turn.reaction.text)] if turn.reaction else []
        return
    heard = []
    for role, group in groupby(lesson.messages, key=lambda said: said.role):
        same = list(group)
        # Several in a row, as after a notice that stood in the place of a reply, become one.
        text = "\n\n".join(said.content for said in same)
        if role == "assistant":
            yield heard, Reply.parse(text), int(all(said.is_learnt for said in same))
            heard = []
        else:
            heard.append(Message(role=role, content=text))


def order(number: int, total: int, seed: str) -> list[int]:
    """Places of so many rows, in passes through `number` of them, each in an order of its own."""
    places: list[int] = []
    for epoch in range(math.ceil(total / number)):
        row = list(range(number))
        Random(f"{seed}:{epoch}").shuffle(row)
        places += row
    return places[:total]


def learn(session: Session, lessons: Sequence[Lesson], sft: SftSettings, begun: int) -> None:
    """Train the session's model on dialogues, for the steps of one round that are left.

    Args:
        session: Writes metrics.jsonl and checkpoints.
        lessons: What to learn.
        sft: How.
        begun: Step of the stage at which the round began.

    Raises:
        TrainingFailure: there is nothing to learn from.
        MissingExtra: torch or trl is not installed.
    """
    if not lessons:
        raise TrainingFailure(
            f"no dialogue scored {sft.least:g} or more: lower the stage's `least`, raise its "
            "`people`, or name a file of `messages`, which need no score"
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
    rows = [tokens(session.speaker, lesson) for lesson in lessons]
    seed = f"{session.config.run.seed}:{session.state.stage}:{begun}"
    places = order(len(rows), sft.steps * sft.dialogues, seed)[done * sft.dialogues :]
    trainer = trl_adapter.supervised(
        session, sft, [rows[place] for place in places], sft.steps - done, optimiser, rate,
        _Notes(session, optimiser, len(lessons), begun, done, sft.steps).learnt,
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
