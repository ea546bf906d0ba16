"""Traces of loops as training data, in the conversational formats of TRL.

What a loop found under a cue is attached to the task without the cue, so that a policy learns the
answer and not to wait for the phrase. Attempts of one loop were drawn under different prompts and
never form a GRPO group: of those only the prompts are exported, to be sampled afresh.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from heartloop.errors import InvalidInput, extra
from heartloop.policy.loops.base import Attempt, Trace
from heartloop.rewards.answers import Question
from heartloop.types import Message

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]


def sft(traces: Iterable[Trace], *, least: float = 1.0, new_only: bool = False) -> Dataset:
    """The task without its cue, and the best verified answer to it: one row for each task.

    Args:
        traces: Reported on; where attempts were rehearsed instead, that score counts.
        least: Score from which an answer is worth learning.
        new_only: Leave out tasks that the first attempt solved.

    Raises:
        InvalidInput: no trace holds such an answer.
        MissingExtra: datasets is not installed.
    """
    best: dict[str, tuple[float, Row]] = {}
    for trace in traces:
        worths = [(_worth(a), a) for a in trace.attempts if a.usable]
        good = [(w, a) for w, a in worths if w is not None and w >= least]
        if not good or (new_only and good[0][1].index == 0):
            continue
        worth, attempt = max(good, key=lambda found: found[0])
        key = _key(trace)
        if key not in best or worth > best[key][0]:
            best[key] = worth, _answered(trace, attempt, worth)
    return _dataset((row for _, row in best.values()), "an answer that scores enough")


def preferences(traces: Iterable[Trace]) -> Dataset:
    """Pairs of a better and a worse attempt at one task, both as answers to the task without cue.

    Raises:
        InvalidInput: no trace holds two attempts that differ in score.
        MissingExtra: datasets is not installed.
    """
    rows = (row for trace in traces for row in _pair(trace))
    return _dataset(rows, "two attempts that differ in score")


def grpo_prompts(traces: Iterable[Trace], questions: Sequence[Question] = ()) -> Dataset:
    """Each state in which a loop drafted as a single-turn prompt of its own, once.

    A trainer samples a whole group for one prompt, so a group shares task, draft and cue. The
    question of a task goes along as JSON, for a reward that verifies.

    Raises:
        InvalidInput: there is no attempt.
        MissingExtra: datasets is not installed.
    """
    asked = {question.id: question for question in questions}
    rows: dict[str, Row] = {}
    for trace in traces:
        question = asked.get(trace.task)
        for attempt in trace.attempts:
            prompt = _messages(attempt.messages)
            rows.setdefault(
                json.dumps(prompt),
                {
                    "prompt": prompt,
                    "task": trace.task,
                    "attempt": attempt.index,
                    "question": question.model_dump_json() if question else "",
                },
            )
    return _dataset(rows.values(), "an attempt")


def _worth(attempt: Attempt) -> float | None:
    """The report on an attempt, or the score of its rehearsal."""
    score = attempt.report or attempt.score
    return None if score is None else score.value


def _key(trace: Trace) -> str:
    return json.dumps([trace.task, _messages(trace.messages)])


def _answered(trace: Trace, attempt: Attempt, worth: float) -> Row:
    return {
        "prompt": _messages(trace.messages),
        "completion": _said(attempt),
        "task": trace.task,
        "score": worth,
    }


def _pair(trace: Trace) -> Iterator[Row]:
    """The best attempt against the worst; the cues they were drawn under are named."""
    scored = [(w, a) for a in trace.attempts if a.usable and (w := _worth(a)) is not None]
    if len(scored) < 2:
        return
    (high, good), (low, bad) = (pick(scored, key=lambda found: found[0]) for pick in (max, min))
    if high > low:
        yield {
            "prompt": _messages(trace.messages),
            "chosen": _said(good),
            "rejected": _said(bad),
            "task": trace.task,
            "chosen_cue": good.cue,
            "rejected_cue": bad.cue,
        }


def _said(attempt: Attempt) -> list[Row]:
    return _messages(
        [Message(role="assistant", content=attempt.reply.text if attempt.reply else "")]
    )


def _messages(messages: Iterable[Message]) -> list[Row]:
    return [message.model_dump() for message in messages]


def _dataset(rows: Iterable[Row], wanted: str) -> Dataset:
    try:
        from datasets import Dataset
    except ImportError as cause:
        raise extra("train", cause) from cause
    found = list(rows)
    if not found:
        raise InvalidInput(f"expected traces with {wanted}, got none: nothing to export")
    return Dataset.from_list(found)
