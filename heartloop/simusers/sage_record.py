"""The record of a SAGE user, and the reaction that follows from it without any model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from heartloop.emotion import resolve
from heartloop.errors import CallFailure, InvalidInput, UnknownEmotion
from heartloop.llm.base import TokenLogprob
from heartloop.simusers import answers, dynamics, sage_prompts
from heartloop.simusers.answers import Appraised, Form, Spoken
from heartloop.simusers.dynamics import Preset
from heartloop.types import Appraisal, Reaction, Scenario

VERSION = 1
FORMS: dict[str, Form] = {"appraise": "appraise", "reply": "reply", "turn": "turn", "open": "reply"}
"""What each call is answered with."""
Record = Mapping[str, Any]
"""`Reaction.record` of a SAGE user, or one of its calls."""


def reread(record: Record, emotion: float, preset: Preset, scenario: Scenario) -> Reaction:
    """The reaction that a record's raw answers make, recomputed without the model.

    Args:
        record: `Reaction.record` of a SAGE user.
        emotion: Before the reaction.
        preset: The rules of the dialogue.
        scenario: Who reacts.

    Raises:
        CallFailure: an answer that was used cannot be read.
        InvalidInput: the record lacks a part, or passes over an appraisal that can be read.
    """
    try:
        calls = record["calls"]
        if all(call["purpose"] == "open" for call in calls):
            return _opening(record, emotion, scenario)
        _check_choice(record)
        wish, change = judged(calls, preset)
        return _reaction(record, spoken(calls), (emotion, wish, change), preset, scenario)
    except (LookupError, TypeError, ValidationError) as error:
        raise InvalidInput(
            f"expected the record of a SAGE user, got {str(record)[:200]!r} ({error!r})"
        ) from error


def reader(style: str) -> str:
    """Name and versions of what appraises, e.g. "sage/1.1:evaluator"."""
    return f"sage/{VERSION}.{sage_prompts.VERSION}:{style}"


def answered(call: Record) -> Appraised | Spoken:
    """What one call of a record answers.

    Raises:
        CallFailure: it cannot be read, or was cut short.
    """
    if call["finish"] == "length":
        raise CallFailure(
            f"the answer was cut short at {call['completion_tokens']} tokens, "
            f"got {answers.excerpt(call['raw'])!r}"
        )
    return answers.parse(FORMS[call["purpose"]], call["raw"])


def _read(calls: Sequence[Record]) -> list[tuple[Record, Appraised | Spoken]]:
    """The used calls with their answers."""
    return [(call, answered(call)) for call in calls if call["used"]]


def spoken(calls: Sequence[Record]) -> Spoken:
    """What the person says in the used calls; a reply call goes before what came along."""
    found = [(call["purpose"], said) for call, said in _read(calls) if isinstance(said, Spoken)]
    return next((said for purpose, said in found if purpose == "reply"), found[0][1])


def feeling(calls: Sequence[Record]) -> dict[str, str]:
    """How the reply was received, as the reply call is told."""
    felt = next(answer for _, answer in _read(calls) if isinstance(answer, Appraised))
    return {"objective": felt.completion, "subjective": f"{felt.activity} {felt.analysis}".strip()}


def judged(calls: Sequence[Record], preset: Preset) -> tuple[float, float]:
    """Mean change over the appraisals, as judged and as the preset admits it."""
    read = [(call, a.change) for call, a in _read(calls) if isinstance(a, Appraised)]
    clamp = answers.REACH if preset.clamp is None else preset.clamp
    wide = math.fsum(_mean(call, change, answers.REACH) for call, change in read)
    near = math.fsum(_mean(call, change, clamp) for call, change in read)
    return round(wide / len(read), 2) + 0.0, dynamics.limit(near / len(read), preset) + 0.0


def _mean(call: Record, change: float, limit: float) -> float:
    """The change of one appraisal: the number itself, or its mean by token probabilities."""
    if "logprobs" not in call:
        return max(-limit, min(limit, change))
    tokens = [TokenLogprob.model_validate(token) for token in call["logprobs"]]
    if not answers.spell(tokens, change):
        raise InvalidInput(f"the recorded tokens do not spell the change {change:g}: {tokens!r}")
    return answers.expectation(tokens, limit)


def _opening(record: Record, emotion: float, scenario: Scenario) -> Reaction:
    text, shown = scenario.opener, ""
    if record["calls"]:
        made = spoken(record["calls"])
        text, shown = made.reply, made.shown
    felt = _appraisal(record, scenario, emotion, shown, {})
    return Reaction(text=text, emotion=emotion, appraisal=felt, record=dict(record))


def _check_choice(record: Record) -> None:
    """Nobody picked among the appraisals: what could be read was used, as often as agreed."""
    judging = [call for call in record["calls"] if call["purpose"] in ("appraise", "turn")]
    used = sum(call["used"] for call in judging)
    if used != record["samples"]:
        raise InvalidInput(f"expected {record['samples']} used appraisals, got {used}")
    if any(_is_passed_over(call, record["expected"]) for call in judging):
        raise InvalidInput("the record passes over an appraisal that can be read")


def _is_passed_over(call: Record, expected: bool) -> bool:
    if call["used"]:
        return False
    try:
        read = answered(call)
    except CallFailure:
        return False
    if not expected or not isinstance(read, Appraised):
        return True
    tokens = [TokenLogprob.model_validate(token) for token in call["logprobs"]]
    return answers.spell(tokens, read.change)


def _reaction(
    record: Record,
    said: Spoken,
    numbers: tuple[float, float, float],
    preset: Preset,
    scenario: Scenario,
) -> Reaction:
    before, wish, change = numbers
    after = dynamics.step(before, change, preset)
    excess = round(change - wish, 2)
    parts = {"judged": wish} | ({"limit": excess} if excess else {})
    return Reaction(
        text=said.reply,
        emotion=after,
        change=change,
        farewell=said.farewell,
        appraisal=_appraisal(record, scenario, after, said.shown, parts),
        record=dict(record),
    )


def _appraisal(
    record: Record, scenario: Scenario, level: float, shown: str, parts: dict[str, float]
) -> Appraisal:
    return Appraisal(
        contributions=parts,
        felt=scenario.felt,
        shown=_node(shown),
        intensity=round(min(1.0, scenario.intensity * (1.4 - level / 100)), 3),
        reader=reader(record["style"]),
    )


def _node(word: str) -> str:
    """The ontology's node for what the person lets be seen; "" where it knows none."""
    try:
        return resolve(word)
    except UnknownEmotion:
        return ""
